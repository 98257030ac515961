"""The made folder is also a checkpoint: transformers opens it and computes the same as with the source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import backends
import pytest
import torch
import transformers
from checkpoints import GRAPHS, WILD
from gpt2_export import freeze_checkpoint, make
from gpt2_model.config import REQUIRED_VALUES
from gpt2_model.inert_fields import INERT
from sweep import Step, assert_same_logits
from tolerances import atol
from transformers import GPT2Config, GPT2LMHeadModel


def opened(folder: Path) -> tuple[Step, GPT2Config]:
    """Opens a folder in transformers, which must find exactly the tensors it expects."""
    network, loading = GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(loading.values()), loading
    return backends.transformers(network.eval()), network.config


def assert_same_in_transformers(source: Path, folder: Path) -> None:
    network = GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    tried, config = opened(folder)
    assert_same_logits(
        backends.transformers(network),
        tried,
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        atol=atol("scratch", "torch cpu", "float32"),
    )


@pytest.mark.parametrize("variant", GRAPHS)
def test_every_config_is_the_same_in_transformers(variant: str, made: Callable[[str], Any]) -> None:
    assert_same_in_transformers(*made(variant))


@pytest.mark.parametrize("kind", WILD)
def test_every_kind_of_file_is_the_same_in_transformers(kind: str, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    WILD[kind](source)
    freeze_checkpoint(source, folder)
    assert_same_in_transformers(source, folder)


def test_fields_that_are_null_do_not_keep_transformers_from_opening_the_folder(tmp_path: Path) -> None:
    """transformers 5 accepts null in few fields; it would not open the source itself."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    WILD["as openai published it"](source)
    document = json.loads((source / "config.json").read_text())
    null = dict.fromkeys([*REQUIRED_VALUES, *INERT, "n_inner", "mystery"])
    (source / "config.json").write_text(json.dumps(document | null | {"model_type": "gpt2"}))
    freeze_checkpoint(source, folder)
    assert GPT2LMHeadModel.from_pretrained(folder).config.eos_token_id is None


def test_make_compares_with_transformers_if_it_is_installed(made: Callable[[str], Any], tmp_path: Path) -> None:
    report = make(made("as published").source, tmp_path / "folder").parity
    assert report is not None
    name = f"transformers {transformers.__version__}"
    (theirs,) = (figures for backend, figures in report["backends"].items() if backend.startswith(name))
    assert 0 < theirs["max_logit_difference"] < atol("scratch", "torch cpu", "float32")
    assert theirs["greedy_agreement"] == theirs["greedy_tokens"] > 0
