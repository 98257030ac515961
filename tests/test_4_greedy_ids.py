"""Rung 4: transformers, the scratch network, the graph and the runtime continue a prompt with the same tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import backends
import numpy as np
import pytest
import torch
from checkpoints import GRAPHS
from gpt2_model import GPT2
from gpt2_model import generate as scratch_generate
from gpt2_runtime import GREEDY, LookupConfig, Session, Token
from gpt2_runtime import generate as runtime_generate
from gpt2_runtime.generation.prompt_lookup import DraftBudget
from sweep import greedy
from transformers import GPT2LMHeadModel

PROMPT = [5, 17, 80]
TOKENS = 64


def by_transformers(source: Path) -> list[int]:
    """Greedy decoding by transformers' own loop and cache."""
    network = GPT2LMHeadModel.from_pretrained(source, attn_implementation="eager").eval()
    network.generation_config.eos_token_id = None
    prompt = torch.tensor([PROMPT])
    mask = torch.ones_like(prompt)
    text = network.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
    return text[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("variant", GRAPHS)
def test_sixty_four_tokens_are_the_same_everywhere(variant: str, made: Callable[[str], Any]) -> None:
    source, folder = made(variant)
    expected = by_transformers(source)
    assert len(expected) == TOKENS
    assert list(scratch_generate(GPT2.from_pretrained(source), PROMPT, max_new_tokens=TOKENS)) == expected
    assert list(greedy(backends.graph(folder / "model.onnx"), PROMPT, TOKENS)) == expected
    for opened in ({"graph": "serving"}, {"graph": "serving", "prepack": False}, {"graph": "portable"}):
        session = Session.open(folder, threads=1, **opened)
        events = runtime_generate(session, PROMPT, max_new_tokens=TOKENS, sampling=GREEDY, stop_token_ids=())
        assert [event.id for event in events if isinstance(event, Token)] == expected, opened


@pytest.fixture(scope="module")
def demo(demo_folder: Path) -> Session:
    return Session.open(demo_folder, threads=1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
def test_lookup_writes_the_same_tokens(count: int, demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step but the first drafts the same number of tokens, useful or not."""
    monkeypatch.setattr(DraftBudget, "draft_tokens", lambda self, most, **_: count if self.tokens else 0)
    rng, lengths = np.random.default_rng(0), demo.bundle.architecture.n_positions - 20
    tokens = right = 0
    for prompt in (rng.integers(1500, size=20).tolist() for _ in range(5)):
        plain, *drafted = (
            list(
                runtime_generate(
                    demo, prompt, max_new_tokens=lengths, sampling=GREEDY, stop_token_ids=(), lookup=lookup
                )
            )
            for lookup in (
                None,
                LookupConfig(max_draft_tokens=count),
                LookupConfig(min_ngram=1, max_draft_tokens=count),
            )
        )
        expected = [event.id for event in plain if isinstance(event, Token)]
        for events in drafted:
            assert [event.id for event in events if isinstance(event, Token)] == expected
            tokens, right = tokens + len(expected), right + events[-1].timings.accepted_tokens
    assert tokens > 2000
    assert right > tokens / 20


def test_both_generators_of_this_repository_stop_at_the_same_end_of_the_context(made: Callable[[str], Any]) -> None:
    source, folder = made("as published")
    session = Session.open(folder, threads=1)
    whole = list(scratch_generate(GPT2.from_pretrained(source), PROMPT, max_new_tokens=999))
    events = runtime_generate(session, PROMPT, max_new_tokens=999, sampling=GREEDY, stop_token_ids=())
    assert [event.id for event in events if isinstance(event, Token)] == whole
    assert len(whole) == session.bundle.architecture.n_positions - len(PROMPT) + 1  # the last one is not read


def test_rows_of_a_batch_are_continued_as_each_alone(made: Callable[[str], Any]) -> None:
    """Prompts of different lengths, decoded together, each row at its own position."""
    source, folder = made("as published")
    session = Session.open(folder, threads=1, graph="serving")
    prompts = [PROMPT, [1], [7] * 20, [5, 17]]
    logits, cache = session.step(prompts, session.empty_cache(len(prompts)))
    results: list[list[int]] = [[] for _ in prompts]
    for _ in range(TOKENS - 10):
        tokens = logits[:, -1].argmax(axis=1)
        for row, token in zip(results, tokens.tolist(), strict=True):
            row.append(token)
        logits, cache = session.step(tokens[:, None], cache)
    model = GPT2.from_pretrained(source)
    assert results == [list(scratch_generate(model, prompt, max_new_tokens=TOKENS - 10)) for prompt in prompts]


def test_the_tokens_are_not_one_token_repeated(made: Callable[[str], Any]) -> None:
    assert len(set(by_transformers(made("as published").source))) > 10
