"""The same weights for every runtime: a random checkpoint, our folder, and each peer's conversion."""

import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from devices import Device
from environments import digest, environment_key
from peers import HERE, OURS, ROOT, Peer
from processes import Adapter, PeerError, run


class Models:
    """The models made once and kept: `folder`/checkpoint, and one folder per peer and precision."""

    def __init__(self, folder: Path, logs: Path, device: Device) -> None:
        self.folder, self.logs, self.device = folder, logs, device
        self.checkpoint = folder / "checkpoint"

    def make_checkpoint(self) -> Path:
        """transformers' GPT-2 of 124M parameters, from its initialiser with a fixed seed."""

        def make(target: Path) -> None:
            run([sys.executable, str(HERE / "checkpoint.py"), str(target)], log=self.logs / "checkpoint.log")

        return self._kept("checkpoint", {"code": digest([HERE / "checkpoint.py"])}, make)

    def make_ours(self) -> Path:
        """The folder made from the checkpoint by this checkout's `gpt2-export make`."""

        def make(target: Path) -> None:
            program = Path(sys.executable).with_name("gpt2-export")
            # Random weights this wide lose more in 4 bits than the default limit; here only speed matters.
            options = ["--precision", ",".join(self.device.precisions), "--max-ppl-increase", "1000"]
            log = self.logs / f"{self.device.prefix}export.log"
            run([str(program), "make", str(self.checkpoint), str(target), *options], log=log)

        sources = [*(ROOT / "packages/model/src").rglob("*.py"), *(ROOT / "packages/export/src").rglob("*.py")]
        return self._kept(f"{self.device.prefix}{OURS}", {"code": digest(sources)}, make)

    def convert(self, peer: Peer, precision: str, python: Path) -> Path:
        """The checkpoint in the peer's own format, converted by its adapter."""

        name = f"{self.device.prefix}{peer.name}-{precision}"

        def make(target: Path) -> None:
            with Adapter(python, peer.adapter, threads=2, log=self.logs / f"{name}-convert.log") as adapter:
                adapter.ask("convert", checkpoint=str(self.checkpoint), target=str(target), precision=precision)

        adapters = HERE / "adapters"
        key = environment_key(peer) | {"code": digest([adapters / f"{peer.adapter}.py", adapters / "tensors.py"])}
        return self._kept(name, key, make)

    def _kept(self, name: str, key: dict[str, str], make: Callable[[Path], None]) -> Path:
        """`folder`/`name`, made again if its key or the checkpoint has changed."""
        path, marker = self.folder / name, self.folder / f"{name}.json"
        parent = self.folder / "checkpoint.json"
        if name != "checkpoint":
            key = key | {"checkpoint": digest([parent])}
        if path.exists() and marker.is_file() and json.loads(marker.read_text()) == key:
            return path
        marker.unlink(missing_ok=True)
        remove(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{name}.", dir=self.folder) as partial:
            made = Path(partial) / "model"
            make(made)
            if not made.exists():
                raise PeerError(f"{name}: nothing was made")
            made.rename(path)
        marker.write_text(json.dumps(key))
        return path


def remove(path: Path) -> None:
    """Removes a folder or a link, if it exists."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def our_precisions(folder: Path, precisions: Iterable[str]) -> list[str]:
    """The precision classes whose graph the folder has."""
    graphs = manifest_of(folder)["graphs"]
    return [precision for precision in precisions if precision in graphs]


def our_megabytes(folder: Path, precision: str) -> float:
    """The size of the files that one precision of the folder reads."""
    manifest = manifest_of(folder)
    files = [manifest["weights"][precision], manifest["graphs"][precision]["serving"]]
    return sum((folder / file).stat().st_size for file in files) / 1e6


def megabytes(folder: Path) -> float:
    """The size of a model's files, following links."""
    return sum(file.stat().st_size for file in folder.resolve().rglob("*") if file.is_file()) / 1e6


def manifest_of(folder: Path) -> dict[str, Any]:
    """Our folder's manifest."""
    return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


def bytes_a_token(weights: Path) -> int:
    """The weight bytes that a decoding step reads: everything except the embeddings, where it reads one row.

    GPT-2's head is its token embedding and is read completely, unless the file has a separate head.
    """
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    names = {name.removeprefix("transformer."): entry["data_offsets"] for name, entry in header.items()}
    unread = {"wpe.weight"} | ({"wte.weight"} if "lm_head.weight" in names else set())
    return sum(end - start for name, (start, end) in names.items() if name not in unread)


def cached_bytes(config: Mapping[str, Any], size: int) -> int:
    """The bytes of one token's keys and values in all layers, with numbers of `size` bytes.

    >>> cached_bytes({"n_layer": 12, "n_embd": 768}, 2)
    36864
    """
    return 2 * int(config["n_layer"]) * int(config["n_embd"]) * size
