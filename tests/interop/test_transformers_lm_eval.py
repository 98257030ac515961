"""lm-eval with the runtime as its model, against its own `hf` backend: the tasks in `tasks/`, and what is refused."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2_runtime.errors import GPT2RuntimeError

TASKS = Path(__file__).parent / "tasks"
NAMES = ("gpt2_choice", "gpt2_rolling", "gpt2_generate")
ATOL = 1e-4  # of a log-likelihood; a token at the wrong position is 0.1 off
ROUNDING = 1e-7  # hf sums in float32: a text of 900 tokens scores -6374, whose last place is 5e-4

# Warnings are errors here; these come from lm-eval and its dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")

Model = Any
Open = Callable[..., Model]


@pytest.fixture(scope="module", autouse=True)
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tasks name their documents relative to here, and nothing is written to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TASKS)
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="module")
def runtime() -> Open:
    from gpt2_runtime.lm_eval import RuntimeLM

    return RuntimeLM


@pytest.fixture(scope="module")
def hf() -> Open:
    from lm_eval.models.huggingface import HFLM

    def opened(folder: Path, **options: Any) -> Model:
        return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, **options)

    return opened


def evaluated(model: Model) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    results: dict[str, Any] = simple_evaluate(model, tasks=list(NAMES), task_manager=manager, bootstrap_iters=0)
    return results


def answers(results: dict[str, Any], task: str) -> list[Any]:
    """Each document's answer, in order."""
    return [sample["resps"] for sample in sorted(results["samples"][task], key=lambda sample: sample["doc_id"])]


def instance(kind: str, *arguments: Any) -> Any:
    """One request, as tasks make them."""
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, arguments, 0)  # type: ignore[arg-type]


def continued(model: Model, context: str, **settings: Any) -> str:
    (text,) = model.generate_until([instance("generate_until", context, settings)], disable_tqdm=True)
    return str(text)


@pytest.mark.parametrize("options", [{"graph": "serving"}, {"graph": "portable"}, {"max_length": 48}])
def test_the_tasks_are_answered_as_by_hf(options: dict[str, Any], case: Any, runtime: Open, hf: Open) -> None:
    length = {name: value for name, value in options.items() if name == "max_length"}
    ours, theirs = evaluated(runtime(case.folder, **options)), evaluated(hf(case.folder, **length))
    for mine, others in zip(answers(ours, "gpt2_choice"), answers(theirs, "gpt2_choice"), strict=True):
        for ((logprob, greedy),), ((expected, is_greedy),) in zip(mine, others, strict=True):
            assert logprob == pytest.approx(expected, abs=ATOL)
            assert greedy == is_greedy
    rolling = zip(answers(ours, "gpt2_rolling"), answers(theirs, "gpt2_rolling"), strict=True)
    for ((actual,),), ((expected,),) in rolling:
        assert actual == pytest.approx(expected, abs=ATOL, rel=ROUNDING)
    assert answers(ours, "gpt2_generate") == answers(theirs, "gpt2_generate")
    for task in NAMES:
        for metric, value in theirs["results"][task].items():
            assert ours["results"][task][metric] == pytest.approx(value, abs=ATOL), (task, metric)


def test_the_documents_are_longer_than_the_context(case: Any, runtime: Open) -> None:
    model = runtime(case.folder)
    documents = map(json.loads, (TASKS / "documents.jsonl").read_text(encoding="utf-8").splitlines())
    assert max(len(model.tok_encode(document["text"])) for document in documents) > 2 * model.max_length


def test_text_by_transformers_is_greedy(case: Any, runtime: Open) -> None:
    model = runtime(case.folder)
    rows = [(None, prompt, new) for prompt, new in zip(case.prompts, case.greedy, strict=True)]
    assert [greedy for _, greedy in model._loglikelihood_tokens(rows, disable_tqdm=True)] == [True] * len(rows)
    others = [(None, prompt, [*new[:-1], (new[-1] + 1) % case.end]) for _, prompt, new in rows]
    assert [greedy for _, greedy in model._loglikelihood_tokens(others, disable_tqdm=True)] == [False] * len(rows)


def test_a_common_beginning_is_read_once_and_changes_nothing(case: Any, runtime: Open) -> None:
    model = runtime(case.folder)
    context = "The quick brown fox doesn't mind "
    rows = [instance("loglikelihood", context, text) for text in ("the dog", "the fox", "and", "the dog")]
    together = model.loglikelihood(rows, disable_tqdm=True)
    alone = [model.loglikelihood([row], disable_tqdm=True)[0] for row in rows]
    assert together == [(pytest.approx(logprob, abs=1e-5), greedy) for logprob, greedy in alone]
    read: list[int] = []
    step = type(model._session).step

    def counted(session: Any, ids: Any, *rest: Any) -> Any:
        read.extend(ids[0])
        return step(session, ids, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model._session), "step", counted)
        model.loglikelihood(rows, disable_tqdm=True)
    assert len(read) < 2 * len(model.tok_encode(context + "the dog"))


def test_sampling_is_hfs(case: Any, runtime: Open, hf: Open) -> None:
    model = runtime(case.folder)
    settings = {"do_sample": True, "temperature": 0.7, "max_gen_toks": 20, "until": ["\n"]}
    greedy = continued(model, "The dog", max_gen_toks=20, until=["\n"])
    assert greedy == continued(hf(case.folder), "The dog", max_gen_toks=20, until=["\n"])
    assert continued(model, "The dog", **settings, top_k=1) == greedy
    drawn = []
    for seed in (1, 1, 2):
        np.random.seed(seed)  # as lm-eval's --seed does
        drawn.append(continued(model, "The dog", **settings, top_p=0.9))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 15},
        {"top_k": 5, "min_p": 0.1, "no_repeat_ngram_size": 0},
    ],
)
def test_the_controls_of_a_task_are_hfs(settings: dict[str, Any], case: Any, runtime: Open, hf: Open) -> None:
    model, other = runtime(case.folder), hf(case.folder)
    for context in ("The dog", "To be, or not to be, or", "the the the"):
        arguments = {"max_gen_toks": 20, "until": ["\n\n"], **settings}
        assert continued(model, context, **arguments) == continued(other, context, **arguments)


def test_fifty_tokens_are_the_limit_unless_the_task_sets_another(runtime: Open) -> None:
    from gpt2_runtime.lm_eval import _sampling

    assert _sampling({"do_sample": True, "temperature": 1.0}).top_k == 50
    assert _sampling({"do_sample": True, "temperature": 1.0, "top_k": 0}).top_k is None
    assert _sampling({"do_sample": False, "temperature": 0.0}).temperature == 0


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"pretrained": "gpt2"}, "model_args has 'pretrained', must be among folder, precision,"),
        ({"dtype": "float32", "peft": "x"}, "model_args has 'dtype', 'peft'"),
        ({"batch_size": 8}, "batch_size is 8, must be 1"),
        ({"batch_size": "auto:4"}, "batch_size is 'auto:4', must be 1"),
        ({"max_length": 0}, "max_length is 0, must be an integer from 2 to"),
        ({"max_length": 5000}, "max_length is 5000, must be an integer from 2 to"),
        ({"max_length": "8"}, "max_length is '8', must be an integer from 2 to"),
        ({"precision": "int3"}, "int3"),
        ({"provider": "tpu"}, "provider is 'tpu'"),
        ({"threads": 0}, "threads is 0"),
        ({"graph": "fast"}, "graph is 'fast'"),
        ({"folder": "nowhere"}, "nowhere does not exist"),
        ({"folder": None}, "model_args has no folder"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], shown: str, case: Any, runtime: Open) -> None:
    with pytest.raises(GPT2RuntimeError, match=shown):
        runtime(**{"folder": case.folder, **arguments})


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"num_beams": 4}, "generation_kwargs has 'num_beams', must be among until, max_gen_toks, do_sample"),
        ({"do_sample": True}, "temperature is 0.0 where do_sample is true"),
        ({"max_gen_toks": 5000}, "max_gen_toks is 5000, must be from 1 to"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0, must be from 1 to"),
        ({"do_sample": True, "temperature": 1, "top_p": 2}, "top_p is 2"),
    ],
)
def test_a_wrong_setting_of_a_task_is_refused(settings: dict[str, Any], shown: str, case: Any, runtime: Open) -> None:
    with pytest.raises(GPT2RuntimeError, match=shown):
        continued(runtime(case.folder), "The dog", **{"max_gen_toks": 5, **settings})


@pytest.mark.parametrize(
    ("context", "continuation", "shown"),
    [("The dog", "", "has 0 tokens of its own"), ("a", "b" * 999, "tokens, the model reads 20")],
)
def test_a_continuation_that_cannot_be_scored_is_refused(
    context: str, continuation: str, shown: str, case: Any, runtime: Open
) -> None:
    model = runtime(case.folder, max_length=20)
    with pytest.raises(GPT2RuntimeError, match=shown):
        model.loglikelihood([instance("loglikelihood", context, continuation)], disable_tqdm=True)


def test_lm_eval_loads_the_model_by_its_entry_point(runtime: Open) -> None:
    """As in releases after 0.4.13: the registry holds the entry point until the name is used."""
    from lm_eval.api.model import LM
    from lm_eval.api.registry import Registry, get_model

    (entry,) = (entry for entry in entry_points(group="lm_eval.models") if entry.name == "gpt2_runtime")
    registry: Registry[Any] = Registry("model", base_cls=LM)
    registry.register("gpt2_runtime", target=entry)
    assert registry.get("gpt2_runtime") is runtime
    assert get_model("gpt2_runtime") is runtime


def commands() -> list[list[str]]:
    """lm-eval's command with this model registered; also its own command, if it supports entry points."""
    from lm_eval.api import registry

    ours = [[sys.executable, "-m", "gpt2_runtime.lm_eval"]]
    looks = "entry_points(" in inspect.getsource(registry)
    return [*ours, [sys.executable, "-m", "lm_eval"]] if looks else ours


@pytest.mark.parametrize("command", commands())
def test_the_command(command: list[str], case: Any) -> None:
    options = ["--model", "gpt2_runtime", "--include_path", str(TASKS), "--tasks", "gpt2_choice"]
    result = subprocess.run(
        [*command, *options, "--model_args", f"folder={case.folder},threads=1"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "|gpt2_choice|" in result.stdout
    refused = subprocess.run(
        [*command, *options, "--model_args", f"folder={case.folder},dtype=float32"], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "model_args has 'dtype', must be among folder" in refused.stderr.splitlines()[-1]
