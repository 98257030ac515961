"""A repository on the Hub is downloaded at a commit that the manifest records; the Hub is a local stand-in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gpt2_export.folder import manifest
from hub import NOWHERE, running, settings

REPOSITORY = "someone/tiny"


@dataclass(frozen=True)
class Ran:
    """The outcome of each command, by the name of its OUT, and the paths requested from the Hub."""

    results: dict[str, dict[str, Any]]
    folder: Path
    requested: list[str]
    commit: str

    def refusal(self, name: str) -> str:
        ran = self.results[name]
        assert (ran["code"], ran["raised"]) == (1, None), ran
        lines = [line for line in ran["err"].splitlines() if not line.startswith("open: ")]
        assert len(lines) == 1, ran["err"]
        assert not (self.folder / name).exists()
        return str(lines[0]).removeprefix("error: ")


@pytest.fixture(scope="module")
def ran(source: Path, tmp_path_factory: pytest.TempPathFactory, run_elsewhere: Callable[..., Any]) -> Ran:
    """All commands of this file, in two processes: one while the Hub is up, one after."""
    folder = tmp_path_factory.mktemp("hub")
    there = {
        "fetched": [REPOSITORY],
        "at-main": [REPOSITORY, "--revision", "main"],
        "no-repository": ["someone/nothing"],
        "no-revision": [REPOSITORY, "--revision", "v9"],
    }
    after = {
        "cached": [REPOSITORY, "--offline"],
        "not-cached": ["someone/other", "--offline"],
        "refused": ["someone/other"],
    }

    def run(commands: dict[str, list[str]], address: str) -> dict[str, dict[str, Any]]:
        lines = [["freeze", *options, str(folder / name)] for name, options in commands.items()]
        ran = run_elsewhere(*lines, env=settings(address, folder / "home"))
        return dict(zip(commands, ran, strict=True))

    with running() as hub:
        files = {file.name: file.read_bytes() for file in source.iterdir()}
        repository = hub.add(REPOSITORY, files | {"training_args.bin": b"not ours to fetch"})
        results = run(there, hub.address)
        requested = [path for _, path, _ in hub.requests]
    return Ran(results | run(after, NOWHERE), folder, requested, repository.branches["main"])


@pytest.mark.parametrize("name", ["fetched", "at-main"])
def test_the_manifest_records_the_name_and_the_commit(ran: Ran, name: str) -> None:
    assert ran.results[name]["code"] == 0, ran.results[name]
    document = manifest.read(ran.folder / name)
    assert document.source == manifest.Source(name=REPOSITORY, revision=ran.commit)
    assert manifest.differences(ran.folder / name, document) == []


def test_only_what_is_needed_is_fetched(ran: Ran) -> None:
    fetched = {path.rpartition("/")[2] for path in ran.requested if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors", "vocab.json", "merges.txt"}


def test_offline_uses_the_cache(ran: Ran) -> None:
    assert ran.results["cached"]["code"] == 0, ran.results["cached"]
    assert manifest.read(ran.folder / "cached") == manifest.read(ran.folder / "fetched")


def test_offline_without_a_cached_copy_is_refused(ran: Ran) -> None:
    assert ran.refusal("not-cached") == (
        "someone/other is not a folder, is not in the Hub's cache and cannot be downloaded; run once without offline"
    )


def test_a_repository_that_does_not_exist_is_refused(ran: Ran) -> None:
    assert ran.refusal("no-repository") == (
        "there is no folder someone/nothing, and no such repository on the Hub, or it is private; "
        "check the name; for a private one set HF_TOKEN or run `hf auth login`"
    )


def test_a_revision_that_does_not_exist_is_refused(ran: Ran) -> None:
    assert ran.refusal("no-revision") == (
        "someone/tiny has no revision 'v9' on the Hub; name a branch, a tag or a commit"
    )


def test_a_hub_that_cannot_be_reached_is_reported(ran: Ran) -> None:
    message = ran.refusal("refused")
    assert message.startswith("there is no folder someone/other, and the repository cannot be downloaded from the Hub")
    assert "check the name, the connection" in message
