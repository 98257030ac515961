"""A folder at GPT-2's width, which uses its matrices' real kernels: in every precision, unverified."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpt2_export
import pytest
from gpt2_export import freeze_checkpoint, pipeline
from gpt2_export.folder import manifest
from gpt2_export.folder.reports import ParityReport
from gpt2_export.graphs import kinds
from gpt2_export.graphs.export import Kind
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from trace_cache import add_graphs
from transformers import GPT2Config, GPT2LMHeadModel

KINDS = (PORTABLE, SERVING)
SIZES = {"n_layer": 2, "n_embd": 768, "n_head": 12, "n_positions": 320, "vocab_size": 1000}
VERIFIED: ParityReport = {"reference": "nothing", "backends": {}}
SPECIAL = {"bos_token_id": None, "eos_token_id": None}


def add_precisions(folder: Path, names: Sequence[str], wanted: Sequence[Kind] = KINDS) -> None:
    """`quantize` without measuring the loss: an untrained network has nothing to lose."""
    read = manifest.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "read", lambda place: replace(read(place), parity=VERIFIED))  # as if it were verified
        patch.setattr(pipeline, "judge", lambda *_, **__: {})
        patch.setattr(kinds, "kinds_for", lambda _: tuple(wanted))
        gpt2_export.quantize(folder, names)
    (folder / manifest.MANIFEST).write_text(manifest.text(replace(read(folder), parity=None)))


def write(place: Path, **fields: Any) -> None:
    """Writes a random network of these sizes and its folder."""
    import torch

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**(SIZES | SPECIAL | fields))).save_pretrained(place / "source")
    freeze_checkpoint(place / "source", place / "folder")
    add_graphs(place / "folder", KINDS)
    add_precisions(place / "folder", ["fp16", "int8", "int4"])


def copy(folder: Path, place: Path) -> None:
    """Copies a folder with its float32 graphs and every precision."""
    shutil.copytree(folder, place)
    add_precisions(place, ["fp16", "int8", "int4"])
