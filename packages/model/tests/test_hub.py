"""The Hub: which requests are made, what is downloaded, and the messages when it fails.

Each call runs in its own interpreter against a server on this machine: the Hub's address is read once, when
huggingface_hub is imported.
"""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import BAD_TOKEN, FORBIDDEN, GATED, NOWHERE, Hub, Repository, running, settings
from safetensors.torch import save

FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": save({"wte.weight": torch.ones(2, 3)}),
    "vocab.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# not needed",
    "tf_model.h5": b"not read",
    "onnx/model.onnx": b"not read",
}
PROGRAM = """
import json, sys
from gpt2_model import GPT2Error
from gpt2_model.checkpoint import open_checkpoint

def opened(source, options):
    try:
        checkpoint = open_checkpoint(source, **options)
    except GPT2Error as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {
        "revision": checkpoint.revision,
        "files": sorted(str(file.relative_to(checkpoint.folder)) for file in checkpoint.folder.rglob("*")),
        "tensors": {name: tensor().sum().item() for name, tensor in checkpoint.tensors.items()},
    }

print(json.dumps([opened(source, options) for source, options in json.loads(sys.argv[1])]))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.fixture
def repository(hub: Hub) -> Repository:
    """org/name, with a branch main and a tag v1."""
    repository = hub.add("org/name", FILES)
    repository.branches["v1"] = repository.branches["main"]
    return repository


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def ask_all(questions: list[tuple[str, dict[str, Any]]], environment: dict[str, str]) -> list[dict[str, Any]]:
    """The outcome of opening each source, in a fresh interpreter whose environment names the Hub's address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(questions)]
    ended = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Fetching" not in ended.stderr  # bars are for terminals
    answers: list[dict[str, Any]] = json.loads(ended.stdout)
    assert not [answer for answer in answers if "\n" in answer.get("message", "")]
    return answers


def ask(address: str, cache: Path, source: str = "org/name", **options: Any) -> dict[str, Any]:
    (answer,) = ask_all([(source, options)], settings(address, cache))
    return answer


def test_a_repository_is_opened_at_the_commit_of_its_revision(hub: Hub, repository: Repository, cache: Path) -> None:
    first = repository.branches["v1"]
    newer = repository.commit(FILES | {"vocab.json": b'{"newer": 1}'})
    requests = [("org/name", {"revision": revision}) for revision in ("v1", first, "main")]
    at_tag, at_commit, at_main = ask_all(requests, hub.settings(cache))
    assert at_tag["tensors"] == {"wte.weight": 6.0}
    assert [at_tag["revision"], at_commit["revision"], at_main["revision"]] == [first, first, newer]


def test_only_what_is_needed_is_fetched_and_is_there_offline_afterwards(
    hub: Hub, repository: Repository, cache: Path
) -> None:
    fetched = ask(hub.address, cache)
    assert fetched["files"] == ["chat_template.jinja", "config.json", "model.safetensors", "vocab.json"]
    assert ask(NOWHERE, cache, offline=True) == fetched


def test_a_sharded_repository_is_fetched_whole(hub: Hub, cache: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    shards = {names[0]: save({"a": torch.zeros(1)}), names[1]: save({"b": torch.ones(1)})}
    hub.add("org/name", {"config.json": b"{}", "model.safetensors.index.json": index} | shards)
    assert ask(hub.address, cache)["tensors"] == {"a": 0.0, "b": 1.0}


def test_a_repository_without_readable_weights_is_refused_before_anything_is_fetched(hub: Hub, cache: Path) -> None:
    remedies = {"pytorch_model.bin": "--allow-pickle", "tf_model.h5": "TensorFlow weights"}
    for number, only in enumerate(remedies):
        hub.add(f"org/name{number}", {"config.json": b"{}", only: b""})
    answers = ask_all([(f"org/name{number}", {}) for number in range(len(remedies))], hub.settings(cache))
    for answer, (only, remedy) in zip(answers, remedies.items(), strict=True):
        assert answer["error"] == "SourceError"
        assert only in answer["message"]
        assert remedy in answer["message"]
    assert not list(cache.rglob("config.json"))


def test_a_pickle_is_fetched_only_if_allowed_and_never_beside_safetensors(
    hub: Hub, cache: Path, tmp_path: Path
) -> None:
    torch.save({"wte.weight": torch.zeros(1)}, tmp_path / "pickle")
    pickle = {"pytorch_model.bin": (tmp_path / "pickle").read_bytes()}
    hub.add("org/pickle", {"config.json": b"{}"} | pickle)
    hub.add("org/both", FILES | pickle)
    leave = {"allow_pickle": True}
    only, both = ask_all([("org/pickle", leave), ("org/both", leave)], hub.settings(cache))
    assert only["tensors"] == {"wte.weight": 0.0}
    assert "pytorch_model.bin" not in both["files"]


def test_every_refusal_of_the_hub_is_reported_with_the_remedy(hub: Hub, repository: Repository, cache: Path) -> None:
    hub.add("org/gated", FILES, refuses={"resolve": GATED})
    hub.add("org/closed", FILES, refuses={"info": FORBIDDEN})
    hub.add("org/ill", FILES, refuses={"info": (500, {})})
    hub.add("org/private", FILES, private=True)
    sources = ["org/gone", "org/private", "org/gated", "org/closed", "org/ill"]
    requests = [(source, {}) for source in sources] + [("org/name", {"revision": "no-such-branch"})]
    answers = ask_all(requests, hub.settings(cache))
    assert {answer["error"] for answer in answers} == {"SourceError"}
    messages = [answer["message"] for answer in answers]
    for message, source in zip(messages, sources, strict=False):
        assert source in message
    for message in messages[:2]:  # the Hub hides private repositories
        assert message.startswith("there is no folder org/")
        assert message.endswith("check the name; for a private one set HF_TOKEN or run `hf auth login`")
    assert "is gated: request access on its page" in messages[2]
    assert "refused org/closed: 403 Forbidden: You do not have the rights" in messages[3]
    assert "500" in messages[4]
    assert messages[5] == "org/name has no revision 'no-such-branch' on the Hub; name a branch, a tag or a commit"


@pytest.mark.parametrize("as_file", [False, True])
def test_the_users_token_opens_a_private_repository(hub: Hub, cache: Path, as_file: bool) -> None:
    hub.add("org/name", FILES, private=True)
    environment = hub.settings(cache) | ({} if as_file else {"HF_TOKEN": hub.token})
    if as_file:  # as `hf auth login` leaves it
        cache.mkdir()
        (cache / "token").write_text(hub.token)
        del environment["HF_TOKEN"]
    (answer,) = ask_all([("org/name", {})], environment)
    assert "tensors" in answer, answer
    assert {token for _, _, token in hub.requests} == {f"Bearer {hub.token}"}


def test_a_rejected_token_is_distinguished_from_a_missing_repository(hub: Hub, cache: Path) -> None:
    hub.add("org/name", FILES, refuses={"info": BAD_TOKEN})
    (answer,) = ask_all([("org/name", {})], hub.settings(cache, HF_TOKEN="hf_expired"))
    assert answer["message"].startswith("the Hub rejected your token for org/name; set HF_TOKEN")


def test_a_branch_that_moves_between_two_requests_is_not_a_mix_of_both(
    hub: Hub, repository: Repository, cache: Path
) -> None:
    first = repository.branches["main"]
    newer = repository.commit(FILES | {"vocab.json": b'{"newer": 1}'})
    repository.branches["main"], repository.moves_to = first, newer
    moved, again = ask_all([("org/name", {}), ("org/name", {})], hub.settings(cache))
    assert moved["error"] == "SourceError"
    assert f"changed from {first} to {newer}" in moved["message"]
    assert again["revision"] == newer


def test_an_interrupted_download_is_resumed_where_it_stopped(hub: Hub, cache: Path) -> None:
    pieces = save({"wte.weight": torch.ones(6_000_000)})  # the library keeps whole pieces of 10 MiB
    hub.add("org/name", {"config.json": b"{}", "model.safetensors": pieces}, cuts=1)
    assert ask(hub.address, cache)["tensors"] == {"wte.weight": 6_000_000}
    assert hub.ranges == [f"bytes={10 << 20}-"]


def test_a_file_whose_hash_is_not_the_hubs_is_refused_and_fetched_again(hub: Hub, cache: Path) -> None:
    """Of the same size, which is all that huggingface_hub compares."""
    names = {"org/small": "config.json", "org/large": "model.safetensors"}
    repositories = [hub.add(repository, FILES, garbles={name}) for repository, name in names.items()]
    for refused, (repository, name) in zip(
        ask_all([(repository, {}) for repository in names], hub.settings(cache)), names.items(), strict=True
    ):
        assert refused["error"] == "WeightFileError"
        assert refused["message"].startswith(
            f"{repository}: checksum mismatch for {name}; deleted from the Hub's cache"
        )
    for repository in repositories:
        repository.garbles.clear()
    for answer in ask_all([(repository, {}) for repository in names], hub.settings(cache)):
        assert answer["tensors"] == {"wte.weight": 6.0}


def test_a_cached_file_that_was_changed_is_detected(hub: Hub, repository: Repository, cache: Path) -> None:
    ask(hub.address, cache)
    (path,) = cache.rglob("snapshots/*/model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert ask(hub.address, cache)["error"] == "WeightFileError"
    assert "tensors" in ask(hub.address, cache)


def test_a_hub_that_cannot_be_reached_is_one_line_with_the_remedy(cache: Path) -> None:
    answer = ask(NOWHERE, cache)
    assert answer["error"] == "SourceError"
    assert answer["message"].startswith("there is no folder org/name, and the repository cannot be downloaded")
    assert "check the name, the connection" in answer["message"]


def test_offline_makes_no_request_and_says_what_to_do(hub: Hub, repository: Repository, cache: Path) -> None:
    answer = ask(hub.address, cache, offline=True)
    assert answer["error"] == "SourceError"
    assert "org/name is not a folder, is not in the Hub's cache" in answer["message"]
    assert "without offline" in answer["message"]
    assert hub.requests == []


def test_bars_are_drawn_in_a_terminal_and_closed_before_what_follows(
    hub: Hub, repository: Repository, cache: Path
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-c", PROGRAM + "print('after', file=sys.stderr)", json.dumps([("org/name", {})])]
    ended = subprocess.run(
        command, env=os.environ | hub.settings(cache), stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False
    )
    os.close(theirs)
    shown = bytearray()
    while piece := read(ours):
        shown += piece
    os.close(ours)
    assert ended.returncode == 0, shown.decode()
    assert b"Fetching 4 files: 100%" in shown
    assert shown.endswith(b"after\r\n")


def read(descriptor: int) -> bytes:
    """The terminal's next output; empty once its other end is closed and everything is read."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
