"""Rung 1: the scratch network computes the same as transformers, for every checkpoint, on every shape."""

from pathlib import Path

import backends
import pytest
import torch
from checkpoints import VARIANTS, WILD, network
from gpt2_model import GPT2, generate
from sweep import assert_same_logits, greedy
from tolerances import atol
from transformers import GPT2LMHeadModel

PROMPT = [5, 17, 80]
TOKENS = 78  # as many as fit, plus one that is not read


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_config_agrees_on_every_shape(variant: str, tmp_path: Path) -> None:
    reference = network(**VARIANTS[variant])
    reference.save_pretrained(tmp_path)
    assert_same_logits(
        backends.transformers(reference),
        backends.scratch(GPT2.from_pretrained(tmp_path)),
        vocab_size=reference.config.vocab_size,
        n_positions=reference.config.n_positions,
        atol=atol("scratch", "torch cpu", "float32"),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_config_agrees_in_float64_so_the_formula_is_the_same(variant: str, tmp_path: Path) -> None:
    fields = VARIANTS[variant]
    network(**fields).save_pretrained(tmp_path)
    # transformers always casts to float32 here, which rounds float64 and changes nothing else.
    reference = network(**(fields | {"reorder_and_upcast_attn": False})).double()
    assert_same_logits(
        backends.transformers(reference),
        backends.scratch(GPT2.from_pretrained(tmp_path, dtype=torch.float64)),
        vocab_size=reference.config.vocab_size,
        n_positions=reference.config.n_positions,
        atol=atol("scratch", "torch cpu", "float64"),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_config_continues_a_prompt_with_the_same_tokens(variant: str, tmp_path: Path) -> None:
    reference = network(**VARIANTS[variant])
    reference.save_pretrained(tmp_path)
    expected = list(greedy(backends.transformers(reference), PROMPT, TOKENS))
    assert list(generate(GPT2.from_pretrained(tmp_path), PROMPT, max_new_tokens=TOKENS)) == expected


@pytest.mark.filterwarnings("ignore::gpt2_model.CheckpointWarning")
@pytest.mark.parametrize("kind", WILD)
def test_every_kind_of_file_agrees_on_every_shape(kind: str, tmp_path: Path) -> None:
    WILD[kind](tmp_path)
    reference = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    assert_same_logits(
        backends.transformers(reference),
        backends.scratch(GPT2.from_pretrained(tmp_path)),
        vocab_size=reference.config.vocab_size,
        n_positions=reference.config.n_positions,
        atol=atol("scratch", "torch cpu", "float32"),
    )
