"""The hub: what is asked of it, what is fetched, and what is said when it does not answer as hoped.

Each call runs in an interpreter of its own, against a server on this machine: the hub's address is read once, when
huggingface_hub is imported.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save

NOWHERE = "http://127.0.0.1:9"  # the port of the discard service, where nothing listens
COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": save({"wte.weight": torch.ones(2, 3)}),
    "vocab.json": b"{}",
    "README.md": b"# not needed",
    "tf_model.h5": b"not read",
    "onnx/model.onnx": b"not read",
}
PROGRAM = """
import json, sys
from gpt2_model import GPT2Error
from gpt2_model.checkpoint import open_checkpoint

try:
    checkpoint = open_checkpoint(sys.argv[1], **json.loads(sys.argv[2]))
except GPT2Error as error:
    answer = {"error": type(error).__name__, "message": str(error)}
else:
    answer = {
        "revision": checkpoint.revision,
        "files": sorted(str(file.relative_to(checkpoint.folder)) for file in checkpoint.folder.rglob("*")),
        "tensors": {name: tensor().tolist() for name, tensor in checkpoint.tensors.items()},
    }
print(json.dumps(answer))
"""


class Hub(ThreadingHTTPServer):
    """Answers for org/name: branch main and tag v1 are `commit`, and `moves_to` from the second answer on."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict(FILES)
        self.commit = COMMIT
        self.moves_to = COMMIT
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files, commit, model = self.server.files, self.server.commit, "/api/models/org/name"
        if not path.startswith((model, "/org/name/")):
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif path in (model, *(f"{model}/revision/{name}" for name in ("main", "v1", commit))):
            siblings = [{"rfilename": name} for name in files]
            self.answer(200, {"id": "org/name", "sha": commit, "siblings": siblings})
            self.server.commit = self.server.moves_to
        elif path == f"{model}/tree/{commit}":
            tree = [
                {"type": "file", "path": file, "size": len(files[file]), "oid": etag(files[file])} for file in files
            ]
            self.answer(200, tree)
        elif (file := path.removeprefix(f"/org/name/resolve/{commit}/")) in files:
            self.answer(200, files[file], {"X-Repo-Commit": commit, "ETag": f'"{etag(files[file])}"'})
        else:
            self.answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})

    do_HEAD = do_GET  # noqa: N815 (http.server's own spelling)

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def ask(address: str, cache: Path, source: str = "org/name", **options: Any) -> dict[str, Any]:
    """What opening a source comes to, in a fresh interpreter that takes `address` for the hub."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, source, json.dumps(options)]
    ended = subprocess.run(command, env=kept | settings, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    assert "\n" not in answer.get("message", "")
    return answer


def test_a_repository_is_opened_at_the_commit_that_its_revision_is(hub: Hub, cache: Path) -> None:
    answer = ask(hub.address, cache, revision="v1")
    assert answer["revision"] == COMMIT
    assert answer["tensors"] == {"wte.weight": [[1.0] * 3] * 2}


def test_only_what_is_needed_is_fetched_and_is_there_offline_afterwards(hub: Hub, cache: Path) -> None:
    fetched = ask(hub.address, cache)
    assert fetched["files"] == ["config.json", "model.safetensors", "vocab.json"]
    assert ask(NOWHERE, cache, offline=True) == fetched


def test_a_sharded_repository_is_fetched_whole(hub: Hub, cache: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    del hub.files["model.safetensors"]
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    hub.files |= {names[0]: save({"a": torch.zeros(1)}), names[1]: save({"b": torch.ones(1)})}
    assert ask(hub.address, cache)["tensors"] == {"a": [0.0], "b": [1.0]}


@pytest.mark.parametrize(
    ("only", "remedy"), [("pytorch_model.bin", "--allow-pickle"), ("tf_model.h5", "TensorFlow weights")]
)
def test_a_repository_without_readable_weights_is_refused_before_anything_is_fetched(
    hub: Hub, cache: Path, only: str, remedy: str
) -> None:
    del hub.files["model.safetensors"], hub.files["tf_model.h5"]
    hub.files[only] = b""
    answer = ask(hub.address, cache)
    assert answer["error"] == "SourceError"
    assert only in answer["message"]
    assert remedy in answer["message"]
    assert not list(cache.rglob("config.json"))


@pytest.mark.parametrize(
    ("source", "revision", "named"),
    [("org/gone", None, "org/gone"), ("org/name", "no-such-branch", "org/name at revision 'no-such-branch'")],
)
def test_what_the_hub_does_not_have_is_refused_by_name(
    hub: Hub, cache: Path, source: str, revision: str | None, named: str
) -> None:
    answer = ask(hub.address, cache, source, revision=revision)
    assert answer["error"] == "SourceError"
    assert named in answer["message"]
    assert "check the name, the revision" in answer["message"]


def test_a_branch_that_moves_between_two_questions_is_not_mixed_of_both(hub: Hub, cache: Path) -> None:
    hub.moves_to = "0" * 40
    answer = ask(hub.address, cache)
    assert answer["error"] == "SourceError"
    assert f"moved from {COMMIT} to {hub.moves_to}" in answer["message"]
    assert ask(hub.address, cache)["revision"] == hub.moves_to


def test_a_hub_that_cannot_be_reached_is_one_line_with_the_remedy(cache: Path) -> None:
    answer = ask(NOWHERE, cache)
    assert answer["error"] == "SourceError"
    assert "org/name" in answer["message"]
    assert "check the connection" in answer["message"]


def test_offline_never_asks_the_hub_and_says_what_to_do(hub: Hub, cache: Path) -> None:
    answer = ask(hub.address, cache, offline=True)
    assert answer["error"] == "SourceError"
    assert "org/name is neither a folder nor in the hub's cache" in answer["message"]
    assert "without offline" in answer["message"]
