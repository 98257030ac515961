"""Reads peers.toml: the peers, their environments and their weights."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One runtime.

    Attributes:
        name: unique in the file.
        adapter: adapters/ADAPTER.py.
        environment: the peer whose environment it runs in.
        title: its display name.
        package: the package whose version is shown.
        requirements: of its environment; a path is a package of this checkout.
        weights: precision class -> the runtime's name for its weights of that class.
        options: further arguments of its adapter's `load`.
    """

    name: str
    adapter: str
    environment: str
    title: str
    package: str
    requirements: tuple[str, ...]
    weights: dict[str, str]
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, order=True)
class Variant:
    """A runtime at one precision.

    >>> str(Variant(peer="ctranslate2", precision="int8"))
    'ctranslate2 int8'
    """

    peer: str
    precision: str

    def __str__(self) -> str:
        return f"{self.peer} {self.precision}"


def read_peers(path: Path = HERE / "peers.toml") -> dict[str, Peer]:
    """Every peer by name, including ours. A peer that is `like` an earlier one differs only in its options.

    >>> read_peers()["ctranslate2"].weights["int8"]
    'int8_float32'
    """
    with path.open("rb") as stream:
        entries = tomllib.load(stream)
    peers = {}
    for name, entry in entries.items():
        same = entry.get("like", name)
        entry = entries[same] | entry
        peers[name] = Peer(
            name=name,
            adapter=same,
            environment=same,
            title=entry["title"],
            package=entry["package"],
            requirements=tuple(each.format(root=ROOT) for each in entry["requirements"]),
            weights=entry["weights"],
            options=entry.get("options", {}),
        )
    return peers
