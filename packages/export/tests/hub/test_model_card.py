"""A card describes the folder correctly, in metadata that the Hub understands."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from gpt2_export.folder import inspection, manifest
from gpt2_export.folder.manifest import Manifest, Source
from gpt2_export.hub import model_card

MIT = {"license": "mit"}


@pytest.fixture
def document(made: Path) -> Manifest:
    return manifest.read(made)


def metadata(text: str) -> dict[str, Any]:
    start, block, _ = text.split("---\n", 2)
    assert start == ""
    fields: dict[str, Any] = yaml.safe_load(block)
    return fields


def test_the_metadata_of_a_local_source(made: Path, document: Manifest) -> None:
    assert metadata(model_card.render(made, document, "org/name", {})) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "onnx", "onnxruntime", "onnxruntime-genai", "transformers.js"],
    }


def test_a_source_on_the_hub_gives_base_model_and_license(made: Path, document: Manifest) -> None:
    source = Source(name="someone/tiny", revision="0" * 40)
    terms = {"license": "other", "license_name": "no: yaml", "license_link": "https://example.org/#terms"}
    text = model_card.render(made, replace(document, source=source), "org/name", terms)
    fields = metadata(text)
    assert fields["base_model"] == "someone/tiny"
    assert {name: fields[name] for name in terms} == terms
    assert f"[someone/tiny](https://huggingface.co/someone/tiny/tree/{'0' * 40})" in text


def test_several_licenses_stay_several(made: Path, document: Manifest) -> None:
    assert metadata(model_card.render(made, document, "org/name", {"license": ["mit", "apache-2.0"]}))["license"] == [
        "mit",
        "apache-2.0",
    ]


def test_the_figures_are_the_manifests(made: Path, document: Manifest) -> None:
    text = model_card.render(made, document, "org/name", MIT)
    assert document.parity is not None
    for name, figures in document.parity["backends"].items():
        assert f"{name}: logits within {figures['max_logit_difference']:.2g}" in text
    for name, file in document.files.items():
        assert f"| `{name}` | " in text
        assert f" | {file.bytes:,} |" in text
    assert "| `model_serving.onnx` | the serving graph, fp32 |" in text
    assert f"GPT-2, {inspection.inspect(made)['parameters']:,} parameters" in text


def test_the_quality_loss_is_reported(made: Path, document: Manifest, quantized: Path) -> None:
    assert "## Quality loss" not in model_card.render(made, document, "org/name", MIT)
    text = model_card.render(quantized, manifest.read(quantized), "org/name", MIT)
    for line in inspection.precision_lines(quantized, manifest.read(quantized)):
        assert line in text
    assert "| `model_int8.safetensors` | the weights, int8 |" in text
    assert "| `model_serving_q4.onnx` | the serving graph, int4 |" in text


def test_a_warning_of_the_manifest_is_shown(made: Path, document: Manifest) -> None:
    text = model_card.render(made, replace(document, warnings=("the head is kept",)), "org/name", MIT)
    assert "## Notes\n\n- the head is kept\n" in text


def test_every_program_names_the_repository(made: Path, document: Manifest) -> None:
    text = model_card.render(made, document, "some-org/its-name", MIT)
    assert "org/name" not in text.replace("some-org/its-name", "")
    for title in ("transformers", "gpt2-runtime", "Optimum", "onnxruntime-genai", "transformers.js"):
        assert f"### {title}\n\n```\n" in text


def test_a_folder_without_a_tokenizer_is_run_with_ids(made: Path, document: Manifest) -> None:
    files = {name: file for name, file in document.files.items() if name not in ("tokenizer.json", "vocab.json")}
    text = model_card.render(made, replace(document, files=files), "org/name", MIT)
    assert "[1, 2, 3]" in text
    assert "quick brown fox" not in text


def test_a_card_is_recognised_by_its_mark(made: Path, document: Manifest) -> None:
    text = model_card.render(made, document, "org/name", MIT)
    assert model_card.is_generated(text)
    assert not model_card.is_generated(text.replace(model_card.MARK, ""))


def test_no_path_of_this_machine_is_shown(made: Path, document: Manifest) -> None:
    text = model_card.render(made, document, "org/name", MIT)
    assert str(made.parent) not in text
    assert str(made.parent) not in manifest.text(document)
