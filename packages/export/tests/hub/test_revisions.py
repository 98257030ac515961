"""A repository on the hub is fetched at a commit that the manifest keeps; the hub is a stand-in on this machine."""

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
    """What each command did, by the name of its OUT, and what the hub was asked for."""

    results: dict[str, dict[str, Any]]
    folder: Path
    asked: list[str]
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
    """All the commands of this file, in two processes: one while the hub is there, one after."""
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
        asked = [path for _, path, _ in hub.asked]
    return Ran(results | run(after, NOWHERE), folder, asked, repository.branches["main"])


@pytest.mark.parametrize("name", ["fetched", "at-main"])
def test_the_manifest_keeps_the_name_and_the_commit(ran: Ran, name: str) -> None:
    assert ran.results[name]["code"] == 0, ran.results[name]
    document = manifest.read(ran.folder / name)
    assert document.source == manifest.Source(name=REPOSITORY, revision=ran.commit)
    assert manifest.differences(ran.folder / name, document) == []


def test_only_what_is_needed_is_fetched(ran: Ran) -> None:
    fetched = {path.rpartition("/")[2] for path in ran.asked if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors", "vocab.json", "merges.txt"}


def test_offline_takes_what_the_cache_has(ran: Ran) -> None:
    assert ran.results["cached"]["code"] == 0, ran.results["cached"]
    assert manifest.read(ran.folder / "cached") == manifest.read(ran.folder / "fetched")


def test_offline_without_a_cached_copy_is_told_so(ran: Ran) -> None:
    assert ran.refusal("not-cached") == (
        "someone/other is neither a folder nor in the hub's cache, nor can it be fetched; run once without offline"
    )


def test_a_repository_that_is_not_there_is_told_so(ran: Ran) -> None:
    assert ran.refusal("no-repository") == (
        "there is no folder someone/nothing, and no such repository on the hub, or none that it shows you; "
        "check the name; for a private one set HF_TOKEN or run `hf auth login`"
    )


def test_a_revision_that_is_not_there_is_told_so(ran: Ran) -> None:
    assert ran.refusal("no-revision") == (
        "someone/tiny has no revision 'v9' on the hub; name a branch, a tag or a commit"
    )


def test_a_hub_that_cannot_be_reached_is_told_so(ran: Ran) -> None:
    message = ran.refusal("refused")
    assert message.startswith("there is no folder someone/other, and as a repository it cannot be fetched from the hub")
    assert "check the name, the connection" in message
