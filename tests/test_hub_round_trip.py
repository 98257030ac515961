"""Pushed to the Hub and downloaded again, a folder works: in make, in the runtime, and in its card's programs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpt2_export.hub import model_card
from hub import Hub, running

TINY = Path(__file__).parent.parent / "packages/runtime/tests/data/tiny"
# The command runs in its own process, because the Hub's address is read once.
COMMAND = [sys.executable, "-c", "import sys; from {0}.cli.command import main; main(sys.argv[1:])"]
PROGRAMS = [
    (title, program)
    for title, _, language, program in (*model_card.RUNS, *model_card.RUNS_OF_IDS)
    if language == "python"
]


def run(hub: Hub, home: Path, *command: str) -> str:
    environment = os.environ | hub.settings(home, HF_TOKEN=hub.token, HF_HUB_DISABLE_PROGRESS_BARS="1")
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def export(hub: Hub, home: Path, *arguments: str) -> str:
    return run(hub, home, *COMMAND[:-1], COMMAND[-1].format("gpt2_export"), *arguments)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """org/tiny, the runtime's committed folder, in a private repository."""
    with running() as hub:
        export(hub, tmp_path_factory.mktemp("home"), "push", str(TINY), "org/tiny", "--private")
        yield hub


def test_make_gives_the_same_weights(pushed: Hub, tmp_path: Path) -> None:
    export(pushed, tmp_path, "make", "org/tiny", str(tmp_path / "out"))
    made, before = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "out", TINY))
    for name in ("model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"):
        assert made["files"][name] == before["files"][name]
    repository = pushed.repositories["org/tiny"]
    assert made["source"] == {"name": "org/tiny", "revision": repository.branches["main"]}


def test_the_downloaded_folder_is_unchanged(pushed: Hub, tmp_path: Path) -> None:
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))"
    folder = run(pushed, tmp_path, sys.executable, "-c", code).strip()
    assert "hashes fit" in export(pushed, tmp_path, "inspect", folder, "--check-hashes")
    runtime = COMMAND[-1].format("gpt2_runtime")
    run(pushed, tmp_path, *COMMAND[:-1], runtime, "inspect", folder, "--check-hashes", "--load")


@pytest.mark.parametrize("program", [program for _, program in PROGRAMS], ids=[title for title, _ in PROGRAMS])
def test_a_program_of_the_card_runs_unchanged(pushed: Hub, tmp_path: Path, program: str) -> None:
    for package in re.findall(r"^(?:from|import) (\w+)", program, re.MULTILINE):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    printed = run(pushed, tmp_path, sys.executable, "-c", program.replace("org/name", "org/tiny"))
    assert printed.strip()
