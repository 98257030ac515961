"""The questions for every consumer and the expected answers, both made by `folders.py` in its own environment."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PLACE = os.environ.get("INTEROP_FOLDERS")  # set in a consumer's environment by tox
collect_ignore_glob = [] if PLACE else ["*.py"]  # elsewhere there is no consumer

Rows = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A folder, prompts as token ids with their continuations by transformers, and texts with the runtime's tokens."""

    folder: Path
    prompts: Rows
    greedy: Rows
    beams: Rows
    stopped: list[dict[str, list[int]]]
    texts: list[str]
    tokens: Rows

    @property
    def end(self) -> int:
        """The end-of-text token."""
        end: int = json.loads((self.folder / "config.json").read_text())["eos_token_id"]
        return end


@pytest.fixture(scope="session")
def cases() -> Iterator[dict[str, Case]]:
    """All cases; no consumer may change a folder."""
    place = Path(PLACE or "")
    expected: dict[str, dict[str, Any]] = json.loads((place / "expected.json").read_text())["folders"]
    before = contents(place)
    yield {name: Case(folder=place / name, **fields) for name, fields in expected.items()}
    assert contents(place) == before, "a consumer changed the folder it opened"


@pytest.fixture(scope="session")
def questions(cases: dict[str, Case]) -> dict[str, Any]:
    """For transformers.js: each folder's questions, as `answers.mjs` reads them."""
    return {
        name: {
            "prompts": case.prompts,
            "starts": [row["prompt"] for row in case.stopped],
            "texts": case.texts,
            "count": len(case.greedy[0]),
        }
        for name, case in cases.items()
    }


@pytest.fixture(scope="session", params=["tiny", "demo"])
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


def contents(place: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in place.rglob("*") if file.is_file()}
