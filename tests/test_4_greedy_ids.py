"""Rung 4: transformers, the scratch network, the graph and the runtime continue a prompt with the same tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import backends
import pytest
import torch
from checkpoints import GRAPHS
from gpt2_model import GPT2
from gpt2_model import generate as scratch_generate
from gpt2_runtime import GREEDY, Session, Token
from gpt2_runtime import generate as runtime_generate
from sweep import greedy
from transformers import GPT2LMHeadModel

PROMPT = [5, 17, 80]
TOKENS = 64


def by_transformers(source: Path) -> list[int]:
    """As a user of transformers decodes, with its own loop and cache."""
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
    session = Session.open(folder, threads=1)
    events = runtime_generate(session, PROMPT, max_new_tokens=TOKENS, sampling=GREEDY, stop_token_ids=())
    assert [event.id for event in events if isinstance(event, Token)] == expected


def test_both_generators_of_this_repository_stop_at_the_same_end_of_the_context(made: Callable[[str], Any]) -> None:
    source, folder = made("as published")
    session = Session.open(folder, threads=1)
    whole = list(scratch_generate(GPT2.from_pretrained(source), PROMPT, max_new_tokens=999))
    events = runtime_generate(session, PROMPT, max_new_tokens=999, sampling=GREEDY, stop_token_ids=())
    assert [event.id for event in events if isinstance(event, Token)] == whole
    assert len(whole) == session.bundle.architecture.n_positions - len(PROMPT) + 1  # the last one is not read


def test_the_tokens_are_no_single_one_over_and_over(made: Callable[[str], Any]) -> None:
    assert len(set(by_transformers(made("as published").source))) > 10
