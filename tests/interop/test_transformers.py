"""transformers, the scratch network, the runtime, lm-eval: greedy tokens of each, beams, tokens of hard texts, the
log-likelihoods that lm-eval scores with, and its tasks' answers by the runtime beside those by transformers.
"""

from typing import Any

import pytest
import torch
from gpt2_model import GPT2
from gpt2_model import generate as scratch_generate
from gpt2_runtime import GREEDY, Session, Token
from gpt2_runtime import generate as runtime_generate
from interop.folders import BEAMS, TOKENS
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

# Contexts and continuations; without a context, lm-eval uses the end-of-text token.
SCORED = [("The dog", " doesn't mind"), ("1, 2,", " 3"), ("", "She'll say"), ("naïve", " café, 🙂")]
ATOL = 1e-4  # of a sum of a few log-probabilities; a padded row at the wrong position is off by more than 0.1


@pytest.fixture(scope="module", params=[GPT2LMHeadModel, AutoModelForCausalLM])
def model(request: pytest.FixtureRequest, case: Any) -> Any:
    return request.param.from_pretrained(case.folder)


@pytest.fixture(scope="module")
def tokenizer(case: Any) -> Any:
    return AutoTokenizer.from_pretrained(case.folder)


def continued(model: Any, rows: list[list[int]], count: int, **options: Any) -> list[list[int]]:
    """The new tokens of a left-padded batch."""
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    output = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=count, pad_token_id=0, **options)
    return output[:, length:].tolist()


def test_transformers_continues_single_prompts(model: Any, case: Any) -> None:
    assert model.dtype == torch.float32
    assert [continued(model, [prompt], TOKENS)[0] for prompt in case.prompts] == case.greedy


def test_transformers_continues_a_padded_batch(model: Any, case: Any) -> None:
    assert continued(model, case.prompts, TOKENS) == case.greedy


def test_transformers_searches_with_beams(model: Any, case: Any) -> None:
    assert [continued(model, [prompt], TOKENS, num_beams=BEAMS)[0] for prompt in case.prompts] == case.beams


def test_transformers_stops_at_the_end_of_text(model: Any, case: Any) -> None:
    for row in case.stopped:
        assert continued(model, [row["prompt"]], TOKENS) == [row["new_ids"]]


def test_transformers_has_the_runtimes_tokens(tokenizer: Any, case: Any) -> None:
    assert [tokenizer(text).input_ids for text in case.texts] == case.tokens


def test_the_scratch_network_continues(case: Any) -> None:
    scratch = GPT2.from_pretrained(case.folder)
    assert [list(scratch_generate(scratch, prompt, max_new_tokens=TOKENS)) for prompt in case.prompts] == case.greedy


@pytest.mark.parametrize("graph", ["portable", "serving"])
def test_the_runtime_continues_and_stops(graph: str, case: Any) -> None:
    session = Session.open(case.folder, graph=graph)

    def continued_by_runtime(prompt: list[int]) -> list[int]:
        events = runtime_generate(session, prompt, max_new_tokens=TOKENS, sampling=GREEDY)
        return [event.id for event in events if isinstance(event, Token)]

    assert [continued_by_runtime(prompt) for prompt in case.prompts] == case.greedy
    for row in case.stopped:
        assert continued_by_runtime(row["prompt"]) == row["new_ids"][:-1]  # the end is a separate event


def test_lm_eval_scores_as_transformers(case: Any, tokenizer: Any) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    instances = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(SCORED)]
    scorer = HFLM(pretrained=str(case.folder), device="cpu", dtype="float32", batch_size=len(SCORED))
    scores = scorer.loglikelihood(instances)
    model = AutoModelForCausalLM.from_pretrained(case.folder)
    for (context, continuation), (scored, _) in zip(SCORED, scores, strict=True):
        before = tokenizer(context).input_ids or [case.end]
        ids = torch.tensor(before + tokenizer(continuation).input_ids)
        with torch.no_grad():
            logs = model(ids[None]).logits[0].log_softmax(-1)
        expected = logs[len(before) - 1 : -1].gather(1, ids[len(before) :, None]).sum().item()
        assert scored == pytest.approx(expected, abs=ATOL), (context, continuation)
