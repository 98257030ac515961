"""Every size in config.json is checked against the weights before anything is allocated."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2_export import export_graphs, quantize, verify_folder
from gpt2_export.errors import FolderError
from gpt2_export.folder import manifest
from gpt2_export.weights import network, safetensors_file
from gpt2_model import GPT2, GPT2Config
from odd_files import ODD, make_odd

SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer")


@pytest.fixture
def frozen(made: Path, tmp_path: Path) -> Path:
    """config.json and model.safetensors."""
    for name in (network.CONFIG, network.WEIGHTS):
        shutil.copy(made / name, tmp_path / name)
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    """Changes values in config.json, and its hash in the manifest if there is one."""
    path = folder / network.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    if (folder / manifest.MANIFEST).exists():
        document = manifest.read(folder)
        files = {**document.files, **manifest.entries(folder, [network.CONFIG])}
        (folder / manifest.MANIFEST).write_text(manifest.text(replace(document, files=files)))


def test_it_is_the_network_that_was_frozen(frozen: Path, model: GPT2) -> None:
    assert network.of(frozen) == model.config


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("n_inner", [None, 20])
def test_any_network_is_accepted(
    tmp_path: Path,
    make_model: Callable[..., GPT2],
    freeze_network: Callable[..., None],
    untied: bool,
    n_inner: int | None,
) -> None:
    model = make_model(tie_word_embeddings=not untied, n_inner=n_inner, n_layer=11)
    freeze_network(model, tmp_path)
    assert network.of(tmp_path) == model.config


@pytest.mark.parametrize("name", [*SIZES, "n_inner"])
@pytest.mark.parametrize("value", [1, 10**9, 2**31 - 1])
def test_a_size_that_contradicts_the_weights_is_refused_at_once(frozen: Path, name: str, value: int) -> None:
    change(frozen, **{name: value, "n_head": 1})
    with pytest.raises(FolderError, match=r"; make the folder again"):
        network.of(frozen)


@pytest.mark.parametrize("command", [export_graphs, verify_folder, lambda folder: quantize(folder, ["int8"])])
def test_every_command_refuses_such_a_size(made_copy: Path, command: Callable[[Path], object]) -> None:
    change(made_copy, n_layer=10**9)
    with pytest.raises(FolderError, match=r"n_layer is 1000000000, model\.safetensors has 2; make the folder again"):
        command(made_copy)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"transformer.h.1.ln_1.bias": None}, "lacks transformer.h.1.ln_1.bias"),
        ({"more": (2, 2)}, "has more, which does not fit config.json"),
        ({"transformer.h.1.ln_1.bias": (17,)}, r"transformer.h.1.ln_1.bias is \[17\], config.json says \[16\]"),
        ({"transformer.h.7.ln_1.bias": (16,)}, "n_layer is 2, model.safetensors has 3"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(frozen: Path, names: dict[str, Any], message: str) -> None:
    forms = {name: place.shape for name, place in safetensors_file.places(frozen / network.WEIGHTS).items()} | names
    kept_forms = {name: safetensors_file.Form(shape) for name, shape in forms.items() if shape is not None}
    safetensors_file.write(
        frozen / network.WEIGHTS, kept_forms, (np.zeros(form.shape, np.float32) for form in kept_forms.values())
    )
    with pytest.raises(FolderError, match=message):
        network.of(frozen)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [network.CONFIG, network.WEIGHTS])
def test_a_file_that_is_not_plain_is_refused_at_once(frozen: Path, name: str, odd: str) -> None:
    make_odd(frozen / name, odd)
    with pytest.raises(FolderError, match=rf"{name} (is .*, not a plain file|cannot be read)"):
        network.of(frozen)


def test_a_huge_header_is_refused(frozen: Path) -> None:
    (frozen / network.WEIGHTS).write_bytes((10**8).to_bytes(8, "little") + b"{" + b" " * 100)
    with pytest.raises(FolderError, match=r"its header would have 100,000,000 bytes, at most 16,000,000 are read"):
        network.of(frozen)


def test_a_huge_config_is_refused(frozen: Path) -> None:
    with (frozen / network.CONFIG).open("ab") as file:
        file.truncate(10**9)
    with pytest.raises(FolderError, match=r"has 1,000,000,000 bytes, too many for a config"):
        network.of(frozen)


def test_a_config_of_two_billion_layers_is_refused_at_once(tmp_path: Path) -> None:
    config = GPT2Config()
    (tmp_path / network.CONFIG).write_text(json.dumps(config.to_hf() | {"n_layer": 2**31 - 1}))
    safetensors_file.write(tmp_path / network.WEIGHTS, {}, ())
    with pytest.raises(FolderError, match=r"n_layer is 2147483647, model\.safetensors has 0"):
        network.of(tmp_path)
