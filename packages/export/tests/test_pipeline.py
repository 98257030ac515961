"""The steps in one and apart: the same folder, and none where a step fails."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import pytest
from gpt2_export import export_graphs, freeze_checkpoint, make, pipeline, temporary, verify_folder
from gpt2_export.errors import FolderError, VerificationError
from gpt2_export.folder import manifest
from gpt2_export.graphs import export
from gpt2_export.graphs.kinds import KINDS
from gpt2_model import GPT2, SourceError
from gpt2_model.checkpoint import open_checkpoint
from safetensors.numpy import load_file

GRAPHS = {"model.onnx", "model_serving.onnx", "model_explain.onnx"}
FILES = GRAPHS | {
    "config.json", "generation_config.json", "genai_config.json", "model.safetensors",
    "manifest.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
}  # fmt: skip


@pytest.fixture
def frozen(source: Path, tmp_path: Path) -> Path:
    freeze_checkpoint(source, tmp_path / "frozen")
    return tmp_path / "frozen"


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of nothing, at once."""
    monkeypatch.setattr(export, "base", lambda *_: b"graph")
    monkeypatch.setattr(export, "finished", lambda base, *_: base)
    monkeypatch.setattr(export, "write", lambda content, path, *_: path.write_bytes(content))


def failing(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def test_a_made_folder_holds_the_designs_files_and_no_other(made: Path) -> None:
    assert {file.name for file in made.iterdir()} == FILES


def test_its_manifest_matches_it(made: Path) -> None:
    document = manifest.read(made)
    assert manifest.differences(made, document) == []
    assert document.files.keys() == FILES - {"manifest.json"}
    assert document.graphs == {"fp32": {kind.name: kind.file for kind in KINDS}}
    assert document.warnings == ()
    assert document.parity is not None
    assert document.parity["explaining"].keys() == {"logit", "attention", "lens"}
    for figures in document.parity["explaining"].values():
        assert 0 < figures["max_difference"] < 1e-4
        assert 0 < figures["float32_error"] < figures["tolerance"] < 1e-3
    assert [name for name in document.parity["backends"] if name.endswith(("cpu, portable", "cpu, serving"))]
    for figures in document.parity["backends"].values():
        assert 0 < figures["max_logit_difference"] < 1e-4
        assert figures["greedy_agreement"] == figures["greedy_tokens"] == 17


def test_it_holds_no_second_copy_of_any_weight(made: Path, model: GPT2) -> None:
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    held = sum((made / name).stat().st_size for name in (*GRAPHS, "model.safetensors"))
    assert held - weights < 45_000
    assert "lm_head.weight" not in load_file(made / "model.safetensors")


def test_every_stage_is_reported_from_its_start_to_its_end(made: Path, stages: list[tuple[str, int, int]]) -> None:
    assert made.exists()
    progress = {name: list(calls) for name, calls in groupby(stages, key=lambda stage: stage[0])}
    assert list(progress) == ["open", "freeze", "export", "verify"]
    for calls in progress.values():
        assert [done for _, done, _ in calls] == sorted({done for _, done, _ in calls})
        assert len({total for _, _, total in calls}) == 1
        assert calls[0][1] == 0
        assert calls[-1][1] == calls[-1][2]


def test_the_separate_steps_make_the_same_folder_in_another_process(
    made: Path, source: Path, tmp_path: Path, run_elsewhere: Callable[..., list[dict[str, Any]]]
) -> None:
    apart = str(tmp_path / "apart")
    lines = ["freeze", str(source), apart], ["onnx", apart], ["verify", apart]
    for ran in run_elsewhere(*lines, env={"PYTHONHASHSEED": "7"}):  # sets are walked in another order there
        assert (ran["code"], ran["raised"]) == (0, None), ran
    for file in made.iterdir():
        if file.name != "manifest.json":
            assert (tmp_path / "apart" / file.name).read_bytes() == file.read_bytes(), file.name
    here, there = manifest.read(made), manifest.read(tmp_path / "apart")
    assert here.parity is not None
    assert there.parity is not None
    assert here.parity.pop("backends").keys() == there.parity.pop("backends").keys()
    assert here == there


def test_a_frozen_folder_is_whole_and_marked_unverified(frozen: Path) -> None:
    document = manifest.read(frozen)
    assert manifest.differences(frozen, document) == []
    assert document.parity is None
    assert {file.name for file in frozen.iterdir()} == FILES - GRAPHS


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("verify", VerificationError("too far", {})),
        ("verify", RuntimeError("our own mistake")),
        ("provenance", KeyboardInterrupt()),
    ],
)
def test_when_a_step_fails_there_is_no_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    monkeypatch.setattr(pipeline, step, failing(error))
    with pytest.raises(type(error)):
        make(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stage", "next_step"), [("freeze", "kinds.trace_all"), ("export", "verify")])
def test_a_command_that_is_killed_leaves_no_folder_and_the_next_one_cleans_up(
    source: Path, tmp_path: Path, stage: str, next_step: str
) -> None:
    out = tmp_path / "out"
    # The step after hangs, so that the kill comes in its middle however fast the machine is.
    program = "import time; from gpt2_export import pipeline; from gpt2_export.cli.command import main; "
    program += f"pipeline.{next_step} = lambda *_, **__: time.sleep(600); main()"
    command = [sys.executable, "-c", program, "make", str(source), str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert run.stderr is not None
        assert any(line.startswith(f"{stage}: done") for line in run.stderr)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir() if temporary.is_own(path.name, "out")]
    freeze_checkpoint(source, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert manifest.differences(out, manifest.read(out)) == []


def test_the_source_is_named_without_its_path_on_this_machine(made: Path, source: Path) -> None:
    assert manifest.read(made).source == manifest.Source(name=source.name, revision=None)
    everything = b"".join(file.read_bytes() for file in made.iterdir())
    assert str(source.parent).encode() not in everything
    assert str(made.parent).encode() not in everything


@pytest.mark.usefixtures("without_export")
def test_exporting_graphs_voids_the_parity_report(made_copy: Path) -> None:
    assert manifest.read(made_copy).parity is not None
    document = export_graphs(made_copy)
    assert document == manifest.read(made_copy)
    assert document.parity is None
    assert manifest.differences(made_copy, document) == []


@pytest.mark.usefixtures("without_export")
def test_graphs_are_not_exported_for_changed_weights(frozen: Path) -> None:
    content = bytearray((frozen / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (frozen / "model.safetensors").write_bytes(content)
    before = (frozen / "manifest.json").read_bytes()
    with pytest.raises(FolderError, match=r"model\.safetensors has another sha256"):
        export_graphs(frozen)  # the new manifest would vouch for them
    assert (frozen / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", *sorted(GRAPHS), "config.json", "merges.txt"])
def test_a_folder_with_a_changed_file_is_not_verified(made_copy: Path, name: str) -> None:
    content = bytearray((made_copy / name).read_bytes())
    content[-3] ^= 1
    (made_copy / name).write_bytes(content)
    before = (made_copy / "manifest.json").read_bytes()
    with pytest.raises(FolderError, match=rf"was changed after it was made: {name} has another sha256; make it again"):
        verify_folder(made_copy)
    assert (made_copy / "manifest.json").read_bytes() == before


def test_a_folder_without_a_graph_is_not_verified(frozen: Path) -> None:
    with pytest.raises(FolderError, match=r"has no model\.onnx; export it with `gpt2-export onnx"):
        verify_folder(frozen)


def test_a_verification_that_is_interrupted_changes_nothing(made_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    before = (made_copy / "manifest.json").read_bytes()
    monkeypatch.setattr(pipeline, "verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        verify_folder(made_copy)
    assert (made_copy / "manifest.json").read_bytes() == before


def test_an_added_foreign_file_does_not_become_the_folders_own(made_copy: Path, without_export: None) -> None:
    (made_copy / "token.txt").write_text("private")
    (made_copy / "model_int8.onnx").write_text("of unknown origin")
    before = manifest.read(made_copy).files.keys()
    assert verify_folder(made_copy).files.keys() == before
    assert export_graphs(made_copy).files.keys() == before


def test_a_folder_that_fails_has_no_parity_report_afterwards(made_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "verify", failing(VerificationError("too far", {})))
    with pytest.raises(VerificationError):
        verify_folder(made_copy)
    assert manifest.read(made_copy).parity is None


@pytest.mark.parametrize("out", [".", "..", "../..", "../link"])
def test_out_is_never_the_source_or_around_it(source: Path, tmp_path: Path, out: str) -> None:
    deep = tmp_path / "a" / "checkpoint"
    deep.mkdir(parents=True)
    for file in source.iterdir():
        (deep / file.name).write_bytes(file.read_bytes())
    (tmp_path / "a" / "link").symlink_to("checkpoint")
    with pytest.raises(FolderError, match="is the checkpoint itself, or contains it; choose another OUT"):
        freeze_checkpoint(deep, deep / out, force=True)
    assert open_checkpoint(deep).tensors


def test_out_may_be_inside_the_source(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert freeze_checkpoint(folder, folder / "frozen").source.name == "checkpoint"


def test_the_demo_takes_no_revision(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "DEMO", source)
    with pytest.raises(SourceError, match="revision is 'v2', but"):
        freeze_checkpoint("demo", tmp_path / "out", revision="v2")


def test_the_demo_is_a_small_checkpoint_with_its_tokenizer(tmp_path: Path) -> None:
    document = freeze_checkpoint("demo", tmp_path / "out")
    assert document.source == manifest.Source(name="demo", revision=None)
    assert document.warnings == ()
    assert sum(file.stat().st_size for file in pipeline.DEMO.iterdir()) <= 8_000_000


def test_the_manifest_is_returned(frozen: Path, source: Path, tmp_path: Path) -> None:
    returned = freeze_checkpoint(source, tmp_path / "again")
    assert returned.to_dict() == json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert manifest.read(tmp_path / "again") == returned
    assert manifest.read(tmp_path / "again") == manifest.read(frozen)
