"""An independent GPT-2 in numpy, and a copy of the folder that a test may damage."""

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda_runtime import FakeCudaRuntime
from gpt2_runtime import Session
from gpt2_runtime.providers import cuda_memory

Logits = Callable[[Sequence[int]], np.ndarray]


@pytest.fixture(scope="session")
def oracle(folder: Path) -> Logits:
    """ids [T] -> logits [T, V] in float64, from the folder's weights by GPT-2's equations, without a cache."""
    weights = {name.removeprefix("transformer."): array for name, array in read_safetensors(folder).items()}
    heads = json.loads((folder / "config.json").read_text())["n_head"]
    return lambda ids: gpt2(weights, heads, np.asarray(ids))


@pytest.fixture(scope="session")
def bpe() -> Path:
    """vocab.json and merges.txt of 256 bytes, 443 merges trained on English and some of all else, and <|endoftext|>."""
    return Path(__file__).parent / "data" / "bpe"


@pytest.fixture(scope="session")
def serving(folder: Path) -> Session:
    return Session.open(folder, threads=1, graph="serving")


@pytest.fixture(scope="session")
def portable(folder: Path) -> Session:
    return Session.open(folder, threads=1, graph="portable")


@pytest.fixture(params=["serving", "portable"])
def either(request: pytest.FixtureRequest) -> Session:
    """A session on each of the folder's graphs."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder."""
    return Path(shutil.copytree(folder, tmp_path / "tiny"))


@pytest.fixture
def edit() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Changes a JSON file of a copied folder and, unless it is the manifest, seals the folder again."""

    def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        if path.name != "manifest.json":
            edit(path.parent / "manifest.json", lambda m: m["files"][path.name].update(bytes=path.stat().st_size))

    return edit


def read_safetensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of model.safetensors: eight bytes of header length, the header in JSON, the bytes."""
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]], "<f4")
        .reshape(entry["shape"])
        .astype(np.float64)
        for name, entry in header.items()
    }


def gpt2(weights: dict[str, np.ndarray], heads: int, ids: np.ndarray) -> np.ndarray:
    """T tokens, H heads, D head size, C width, V vocabulary."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    T = len(ids)
    hidden = np.triu(np.full((T, T), -np.inf), 1)
    x = weights["wte.weight"][ids] + weights["wpe.weight"][:T]  # [T, C]
    for layer in range(sum(name.endswith("ln_1.weight") for name in weights)):
        h = f"h.{layer}"
        qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")  # [T, 3 C]
        q, k, v = (a.reshape(T, heads, -1).swapaxes(0, 1) for a in np.split(qkv, 3, axis=-1))  # [H, T, D]
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]) + hidden  # [H, T, T]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ v  # [H, T, D]
        x = x + linear(mixed.swapaxes(0, 1).reshape(T, -1), f"{h}.attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")), f"{h}.mlp.c_proj")
    return norm(x, "ln_f") @ weights["wte.weight"].T  # [T, V]


@pytest.fixture
def resident() -> Callable[[], int]:
    """The bytes of memory that this process holds, as Linux reports them."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        pytest.skip("no /proc/self/statm on this system")
    return lambda: int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def cuda_runtime(monkeypatch):
    """A fake CUDA runtime: what is said to be on a device is on the host."""
    fake = FakeCudaRuntime()
    monkeypatch.setattr(cuda_memory, "runtime", lambda: fake)
    return fake
