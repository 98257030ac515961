"""peers.toml, read: who is measured, in what environment, with what weights."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
OURS = "ours"
PRECISIONS = ("fp32", "int8", "int4")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One runtime.

    Attributes:
        name: also its adapter's, adapters/NAME.py.
        title: as people call it.
        package: whose version is shown.
        requirements: of its environment; a path is a package of this checkout.
        weights: precision class -> what the runtime calls its weights of that class.
    """

    name: str
    title: str
    package: str
    requirements: tuple[str, ...]
    weights: dict[str, str]


@dataclass(frozen=True, kw_only=True, order=True)
class Variant:
    """A runtime at one precision: what is measured.

    >>> str(Variant(peer="ctranslate2", precision="int8"))
    'ctranslate2 int8'
    """

    peer: str
    precision: str

    def __str__(self) -> str:
        return f"{self.peer} {self.precision}"


def read_peers(path: Path = HERE / "peers.toml") -> dict[str, Peer]:
    """Every peer by its name, ours among them.

    >>> read_peers()["ctranslate2"].weights["int8"]
    'int8_float32'
    """
    with path.open("rb") as stream:
        entries = tomllib.load(stream)
    return {
        name: Peer(
            name=name,
            title=entry["title"],
            package=entry["package"],
            requirements=tuple(each.format(root=ROOT) for each in entry["requirements"]),
            weights=entry["weights"],
        )
        for name, entry in entries.items()
    }
