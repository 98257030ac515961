"""transformers.js in Node: greedy tokens of single prompts and of left-padded batches, where it stops, tokens of hard
texts.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# The graph is at the folder's root; the options of a page, which also name its data, must work here too.
IN_NODE = {"subfolder": ""}
IN_A_PAGE = IN_NODE | {
    "session_options": {"externalData": [{"path": "model.safetensors", "data": "model.safetensors"}]}
}


@pytest.fixture(scope="module", params=[IN_NODE, IN_A_PAGE], ids=["node's options", "a page's options"])
def answers(request: pytest.FixtureRequest, cases: dict[str, Any], questions: dict[str, Any]) -> dict[str, Any]:
    installed = Path(os.environ["INTEROP_MODULES"])
    for name in ("answers.mjs", "node.mjs"):  # a module is resolved beside the program that imports it
        shutil.copyfile(HERE / name, installed / name)
    command = ["node", str(installed / "node.mjs"), str(cases["tiny"].folder.parent)]
    question = json.dumps({"questions": questions, "options": request.param})
    result = subprocess.run(command, input=question, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr
    answers: dict[str, Any] = json.loads(result.stdout)
    return answers


def test_single_prompts_are_continued(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["greedy"] == case.greedy


def test_a_padded_batch_is_continued_as_each_row_alone(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["batch"] == case.greedy


def test_it_stops_at_the_end_of_text(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["stopped"] == [row["new_ids"] for row in case.stopped]


def test_texts_have_the_runtimes_tokens(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["tokens"] == case.tokens
