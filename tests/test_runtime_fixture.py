"""The committed folder that the runtime's tests use, without torch, is still what export makes."""

import re
import runpy
from pathlib import Path

import numpy as np
from gpt2_export.folder import manifest
from safetensors.numpy import load_file
from trace_cache import traced, uncached

DATA = Path(__file__).parents[1] / "packages/runtime/tests/data"


def names(text: str) -> list[str]:
    """The names in a JSON document, in order."""
    return re.findall(r'"([^"\n]+)": ', text)


def test_the_committed_folder_is_what_export_makes_today(tmp_path: Path) -> None:
    with traced(uncached):
        runpy.run_path(str(DATA / "make_tiny.py"))["main"](tmp_path / "tiny")
    committed, made = DATA / "tiny", tmp_path / "tiny"
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in committed.iterdir())
    for name in {path.name for path in made.iterdir()} - {"manifest.json", "model.safetensors"}:  # versions, rounding
        assert (made / name).read_bytes() == (committed / name).read_bytes(), f"{name}: run make_tiny.py again"
    assert names((made / "manifest.json").read_text()) == names((committed / "manifest.json").read_text())
    ours, theirs = load_file(made / "model.safetensors"), load_file(committed / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(theirs[name], tensor, rtol=0, atol=1e-6, err_msg=name)


def test_its_manifest_is_written_again_byte_for_byte() -> None:
    assert manifest.text(manifest.read(DATA / "tiny")).encode() == (DATA / "tiny" / "manifest.json").read_bytes()
