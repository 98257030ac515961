"""optimum-onnx, `ORTModelForCausalLM`: greedy tokens of single prompts and of left-padded batches, beams, where it
stops, tokens of hard texts.
"""

from typing import Any

import pytest
import torch
from interop.folders import BEAMS, TOKENS
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def model(case: Any) -> Any:
    return ORTModelForCausalLM.from_pretrained(case.folder)


def continued(model: Any, rows: list[list[int]], count: int, **options: Any) -> list[list[int]]:
    """The new tokens of a left-padded batch."""
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    output = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=count, pad_token_id=0, **options)
    return output[:, length:].tolist()


def test_it_opens_the_portable_graph(model: Any) -> None:
    assert model.path.name == "model.onnx"


def test_single_prompts_are_continued(model: Any, case: Any) -> None:
    assert [continued(model, [prompt], TOKENS)[0] for prompt in case.prompts] == case.greedy


def test_a_padded_batch_is_continued_as_each_row_alone(model: Any, case: Any) -> None:
    assert len({len(prompt) for prompt in case.prompts}) > 3
    assert continued(model, case.prompts, TOKENS) == case.greedy


def test_beams_are_transformers(model: Any, case: Any) -> None:
    assert [continued(model, [prompt], TOKENS, num_beams=BEAMS)[0] for prompt in case.prompts] == case.beams


def test_it_stops_at_the_end_of_text(model: Any, case: Any) -> None:
    for row in case.stopped:
        assert continued(model, [row["prompt"]], TOKENS) == [row["new_ids"]]


def test_texts_have_the_runtimes_tokens(case: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    assert [tokenizer(text).input_ids for text in case.texts] == case.tokens
