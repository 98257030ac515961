"""Every graph that a network can have is made, all or none; a graph it cannot have does not survive."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpt2_export import export_graphs, freeze_checkpoint, make
from gpt2_export.errors import FolderError, GraphError
from gpt2_export.folder import manifest
from gpt2_export.graphs import export, kinds
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_export.precision.precision import INT8
from gpt2_model import GPT2, GPT2Config

NARROW = GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=1, n_head=3)
NARROWS = {"portable": "model.onnx", "explaining": "model_explain.onnx"}
ALL = NARROWS | {"serving": "model_serving.onnx"}
REFUSED = "no serving graph: the head size is 4, but GroupQueryAttention needs a multiple of 8; "


@pytest.fixture
def without_tracing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds that were built, without tracing."""
    built: list[str] = []

    def base(kind: export.Kind, *_: object) -> Any:
        built.append(kind.name)
        return kind.name

    monkeypatch.setattr(export, "base", base)
    monkeypatch.setattr(export, "finished", lambda base, *_: base)
    monkeypatch.setattr(export, "write", lambda model, path, *_: path.write_text(model))
    return built


def test_names_and_files_are_each_kinds_own() -> None:
    assert [kind.name for kind in kinds.KINDS] == ["portable", "serving", "explaining"]
    files = ["model.onnx", "model_serving.onnx", "model_explain.onnx"]
    assert [kind.file for kind in kinds.KINDS] == files


def test_the_portable_graph_has_the_name_that_other_programs_look_for() -> None:
    """Optimum prefers model.onnx; transformers.js appends a precision to "model", unlike the other names."""
    assert PORTABLE.file == "model.onnx"
    suffixes = ("", "_fp16", "_int8", "_uint8", "_q8", "_quantized", "_q4", "_q4f16", "_bnb4")
    assert {SERVING.file, EXPLAIN.file}.isdisjoint(f"model{suffix}.onnx" for suffix in suffixes)


def test_all_are_made_and_progress_counts_them(without_tracing: list[str], model: GPT2, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    bases, refusals = kinds.trace_all(model.config, tmp_path / "weights", progress=lambda *stage: calls.append(stage))
    kinds.write_all(bases, model.config, tmp_path)
    assert refusals == []
    assert without_tracing == ["portable", "serving", "explaining"]
    assert kinds.graphs_in(tmp_path) == {"fp32": ALL}
    assert calls == [("export", done, 3) for done in range(4)]


def test_the_explain_graph_exists_only_in_float32(without_tracing: list[str], model: GPT2, tmp_path: Path) -> None:
    bases, _ = kinds.trace_all(model.config, tmp_path / "weights")
    kinds.write_all(bases, model.config, tmp_path, (INT8, tmp_path / "int8"))
    assert kinds.graphs_in(tmp_path) == {"int8": {"portable": "model_int8.onnx", "serving": "model_serving_int8.onnx"}}
    without_tracing.clear()
    kinds.trace_all(model.config, tmp_path / "weights", kinds=kinds.kinds_for(INT8))
    assert without_tracing == ["portable", "serving"]


def test_if_one_fails_none_is_written(model: GPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(base: object, kind: export.Kind, *_: object) -> str:
        if kind is SERVING:
            raise GraphError("a fusion was lost")
        return "new"

    monkeypatch.setattr(export, "finished", finished)
    monkeypatch.setattr(export, "write", lambda model, path, *_: path.write_text(model))
    (tmp_path / "model.onnx").write_text("old")
    with pytest.raises(GraphError, match="a fusion was lost"):
        kinds.write_all(dict.fromkeys(kinds.KINDS), model.config, tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.onnx", "old")]


def test_a_refused_kind_is_reported(without_tracing: list[str], tmp_path: Path) -> None:
    bases, (warning,) = kinds.trace_all(NARROW, tmp_path / "weights")
    kinds.write_all(bases, NARROW, tmp_path)
    assert warning.startswith(REFUSED)
    assert kinds.is_refusal(warning)
    assert without_tracing == ["portable", "explaining"]
    assert kinds.graphs_in(tmp_path) == {"fp32": NARROWS}


def test_a_frozen_folder_has_no_graphs(tmp_path: Path) -> None:
    assert kinds.graphs_in(tmp_path) == {}


@pytest.fixture
def narrow(make_model: Callable[..., GPT2], make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(model=make_model(n_embd=12, n_head=3, n_layer=1))


def test_a_network_that_is_refused_the_serving_graph_is_made_without_it_and_verified(
    narrow: Path, tmp_path: Path
) -> None:
    document = make(narrow, tmp_path / "out")
    assert document.graphs == {"fp32": NARROWS}
    assert not (tmp_path / "out" / "model_serving.onnx").exists()
    assert [warning for warning in document.warnings if warning.startswith(REFUSED)]
    assert document.parity is not None
    assert not [name for name in document.parity["backends"] if name.endswith("serving")]


@pytest.mark.usefixtures("without_tracing")
def test_a_graph_that_is_refused_now_does_not_survive_and_is_refused_once(narrow: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = freeze_checkpoint(narrow, out)
    (out / "model_serving.onnx").write_text("of a version that did not refuse it")
    with pytest.raises(FolderError, match=r"has model_serving\.onnx, which its manifest does not list; move it away"):
        export_graphs(out)
    files = {**document.files, **manifest.entries(out, ["model_serving.onnx"])}
    (out / "manifest.json").write_text(manifest.text(replace(document, files=files)))
    for _ in range(2):
        document = export_graphs(out)
        assert document.graphs == {"fp32": NARROWS}
        assert len([warning for warning in document.warnings if kinds.is_refusal(warning)]) == 1
        assert len(document.warnings) == 2  # the other: no tokenizer
        assert manifest.differences(out, document) == []
        assert document.files.keys() == {path.name for path in out.iterdir()} - {"manifest.json"}


@pytest.mark.usefixtures("without_tracing")
def test_a_refusal_that_no_longer_holds_is_forgotten(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = freeze_checkpoint(source, out)
    (out / "manifest.json").write_text(manifest.text(replace(document, warnings=("mind", REFUSED))))
    document = export_graphs(out)
    assert document.warnings == ("mind",)
    assert document.graphs == {"fp32": ALL}
