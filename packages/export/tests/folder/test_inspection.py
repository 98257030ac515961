"""What is shown of a folder is what is in its files, and a folder that is damaged is one clear error."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpt2_export import inspect
from gpt2_export.errors import GPT2ExportError
from gpt2_export.folder import manifest
from gpt2_export.folder.inspection import as_json, parity_lines, table
from gpt2_model import GPT2


def test_sizes_are_those_of_the_files(made: Path, model: GPT2) -> None:
    report = inspect(made)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (report["parameters"], report["tensor_bytes"]) == (parameters, 4 * parameters)
    assert report["tensors"] == len(list(model.parameters()))
    assert report["folder_bytes"] == sum(file.stat().st_size for file in made.iterdir())
    assert list(report["precisions"]) == ["fp32"]


def test_all_graphs_are_described(made: Path) -> None:
    report = inspect(made)["graphs"]["fp32"]
    assert list(report) == ["portable", "serving", "explaining"]
    files = ("model.onnx", "model_serving.onnx", "model_explain.onnx")
    for kind, file in zip(report, files, strict=True):
        assert (report[kind]["file"], report[kind]["bytes"]) == (file, (made / file).stat().st_size)
        assert report[kind]["ir_version"] == 9
        assert report[kind]["inputs"]["input_ids"] == ["int64", "batch_size", "sequence_length"]
    assert report["portable"]["opsets"] == {"ai.onnx": 20}
    assert report["serving"]["opsets"] == {"ai.onnx": 20, "com.microsoft": 1}
    assert report["explaining"]["outputs"]["lens_ids"] == ["int64", 3, "batch_size", "sequence_length", "top_k"]
    present = {kind: report[kind]["outputs"]["present.1.value"] for kind in ("portable", "serving")}
    assert present["portable"] == ["float", "batch_size", 2, "total_sequence_length", 8]
    assert present["serving"] == ["float", "batch_size", 2, "cache_length", 8]
    assert report["portable"]["operators"]["Softmax"] == 2
    assert report["serving"]["operators"]["GroupQueryAttention"] == 2


def test_the_table_shows_what_people_look_for(made: Path, source: Path, model: GPT2) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shown = table(inspect(made, check_hashes=True))
    for expected in (
        f"source      {source.name}\n",
        f"network     {parameters:,} parameters in 28 tensors",
        "of them tensors",
        "model.safetensors\n",
        "graph       portable, model.onnx: 2 layers, opsets ai.onnx 20, IR 9\n",
        "graph       serving, model_serving.onnx: 2 layers, opsets ai.onnx 20, com.microsoft 1, IR 9\n",
        "graph       explaining, model_explain.onnx: 2 layers, opsets ai.onnx 20, IR 9\n",
        "  explaining: logits within ",
        "past_key_values.0.key",
        "logits_index",
        "2 Softmax",
        "2 GroupQueryAttention",
        "greedy 17 of 17",
        "hashes fit",
    ):
        assert expected in shown
    assert "past_key_values.1.key" not in shown  # every layer's are alike


def test_json_is_one_object_of_the_same(made: Path) -> None:
    report = inspect(made)
    assert json.loads(as_json(report)) == report


def test_a_revision_is_shown_beside_the_source(made: Path) -> None:
    report = inspect(made) | {"source": {"name": "org/name", "revision": "abc"}}
    assert "org/name at abc" in table(report)


def test_hashes_are_compared_only_on_request(made_copy: Path) -> None:
    (made_copy / "config.json").write_text((made_copy / "config.json").read_text().replace("gpt2", "gpt3"))
    assert "differences" not in inspect(made_copy)
    report = inspect(made_copy, check_hashes=True)
    assert report["differences"] == ["config.json has another sha256"]
    assert "WRONG: config.json has another sha256" in table(report)
    assert "hashes fit" not in table(report)


@pytest.mark.parametrize("change", [lambda merges: merges[::-1], lambda merges: "none"], ids=["edited", "damaged"])
def test_that_merges_are_as_trained_is_proven_again_with_the_hashes(
    made_copy: Path, change: Callable[[Any], Any]
) -> None:
    assert inspect(made_copy, check_hashes=True)["differences"] == []
    document = json.loads((made_copy / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["merges"] = change(document["model"]["merges"])
    (made_copy / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    original = manifest.read(made_copy)
    files = {**original.files, **manifest.entries(made_copy, ["tokenizer.json"])}
    (made_copy / "manifest.json").write_text(manifest.text(replace(original, files=files)), encoding="utf-8")
    message = "tokenizer.json has merges that are not as trained, but manifest.json says they are"
    assert inspect(made_copy, check_hashes=True)["differences"] == [message]
    unreported = replace(original, files=files, tokenizer=None)
    (made_copy / "manifest.json").write_text(manifest.text(unreported), encoding="utf-8")
    assert inspect(made_copy, check_hashes=True)["differences"] == []


def test_a_folder_without_a_graph_says_how_to_get_one(made_copy: Path) -> None:
    (made_copy / "model_serving.onnx").unlink()
    assert list(inspect(made_copy)["graphs"]["fp32"]) == ["portable", "explaining"]
    (made_copy / "model.onnx").unlink()
    (made_copy / "model_explain.onnx").unlink()
    report = inspect(made_copy)
    assert report["graphs"] == {}
    assert "graphs      none; export them with `gpt2-export onnx FOLDER`" in table(report)


def test_a_folder_that_was_not_verified_says_so() -> None:
    assert parity_lines(None) == ["parity      not verified; run `gpt2-export verify FOLDER`"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.onnx", b""),
        ("model.onnx", b"this is not a graph"),
        ("model_serving.onnx", b"this is not a graph"),
        ("model.safetensors", b""),
        ("model.safetensors", b"this is not a weights file, and it is longer than a header"),
        ("manifest.json", b'{"schema": 1}'),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(made_copy: Path, name: str, content: bytes) -> None:
    (made_copy / name).write_bytes(content)
    with pytest.raises(GPT2ExportError, match=name.replace(".", r"\.")):
        inspect(made_copy)


def test_a_lost_file_of_weights_is_an_error_that_names_it(made_copy: Path) -> None:
    (made_copy / "model.safetensors").unlink()
    with pytest.raises(GPT2ExportError, match=r"model\.safetensors"):
        inspect(made_copy)
