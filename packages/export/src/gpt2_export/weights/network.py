"""The network of a frozen folder: config.json, whose sizes are checked against the weights before any allocation."""

import re
from collections.abc import Mapping
from pathlib import Path

from gpt2_model import GPT2Config
from gpt2_model.checkpoint import read_json
from gpt2_model.weights import TRANSPOSE, map_tensor_name, parameter_shapes, stored_name

from gpt2_export import plain_file
from gpt2_export.errors import FolderError
from gpt2_export.weights import safetensors_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LAYER = re.compile(r"transformer\.h\.(\d+)\.")
CONFIG_BYTES = 16_000_000

Shapes = Mapping[str, tuple[int, ...]]


def of(folder: Path) -> GPT2Config:
    """Reads the config of a frozen folder and checks its sizes against the tensors' shapes.

    Raises:
        GPT2Error: config.json is invalid.
        FolderError: a file is not a plain file, or config and weights do not fit.
    """
    path = folder / CONFIG
    plain_file.refuse_odd(path)
    if path.exists() and path.stat().st_size > CONFIG_BYTES:
        raise FolderError(f"{path} has {path.stat().st_size:,} bytes, too many for a config; make the folder again")
    config = GPT2Config.from_hf(read_json(path))
    shapes = {name: place.shape for name, place in safetensors_file.places(folder / WEIGHTS).items()}
    layers = len({match[1] for name in shapes if (match := LAYER.match(name))})
    if config.n_layer != layers:  # first: the shapes of a million layers take minutes
        raise FolderError(f"{path}: n_layer is {config.n_layer}, {WEIGHTS} has {layers}; make the folder again")
    _refuse_other(folder, _first_shapes(config), shapes)
    expected = {
        stored_name(name): shape[::-1] if map_tensor_name(stored_name(name))[1] == TRANSPOSE else shape
        for name, shape in parameter_shapes(config).items()
    }
    _refuse_other(folder, expected, shapes)
    for name in sorted(shapes.keys() - expected.keys()):
        raise FolderError(f"{folder / WEIGHTS} has {name[:100]}, which does not fit {CONFIG}; make the folder again")
    return config


def _first_shapes(config: GPT2Config) -> Shapes:
    """The shapes that bound every size, checked before the full list, which takes memory for each layer."""
    return {
        "transformer.wte.weight": (config.vocab_size, config.n_embd),
        "transformer.wpe.weight": (config.n_positions, config.n_embd),
        "transformer.h.0.mlp.c_fc.weight": (config.n_embd, config.inner_size),
    }


def _refuse_other(folder: Path, expected: Shapes, shapes: Shapes) -> None:
    for name, shape in expected.items():
        if name not in shapes:
            raise FolderError(f"{folder / WEIGHTS} lacks {name}, which {CONFIG} requires; make the folder again")
        if shapes[name] != shape:
            raise FolderError(
                f"{folder / WEIGHTS}: {name} is {list(shapes[name])}, "
                f"{CONFIG} says {list(shape)}; make the folder again"
            )
