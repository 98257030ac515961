"""A repository on the hub is fetched at a commit that the manifest keeps; the hub is a stand-in on this machine."""

import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gpt2_export import manifest

REPOSITORY = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(ThreadingHTTPServer):
    """As much of the hub as huggingface_hub asks for one repository with one commit."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        files = {file.name: file for file in self.server.folder.iterdir()}
        api, resolve = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            self.answer_json({"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings})
        elif path == f"{api}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in files.items()
            ]
            self.answer_json(tree)
        elif path.startswith(resolve) and path.removeprefix(resolve) in files:
            content = files[path.removeprefix(resolve)].read_bytes()
            self.answer(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            known = path.startswith((api, f"/{REPOSITORY}/"))
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def answer_json(self, document: Any) -> None:
        self.answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Ran:
    """What each command did, by the name of its OUT, and what the hub was asked for."""

    results: dict[str, dict[str, Any]]
    folder: Path
    asked: list[str]

    def refusal(self, name: str) -> str:
        ran = self.results[name]
        assert (ran["code"], ran["raised"]) == (1, None), ran
        lines = [line for line in ran["err"].splitlines() if not line.startswith("open: ")]
        assert len(lines) == 1, ran["err"]
        assert not (self.folder / name).exists()
        return str(lines[0]).removeprefix("error: ")


def nobodys_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def ran(source: Path, tmp_path_factory: pytest.TempPathFactory, run_elsewhere: Callable[..., Any]) -> Ran:
    """All the commands of this file, in two processes: one while the hub is there, one after."""
    folder = tmp_path_factory.mktemp("hub")
    repository = Path(shutil.copytree(source, folder / "repository"))
    (repository / "training_args.bin").write_bytes(b"not ours to fetch")
    server = StandIn(repository)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
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

        def run(commands: dict[str, list[str]], port: int) -> dict[str, dict[str, Any]]:
            env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1"}
            lines = [["freeze", *options, str(folder / name)] for name, options in commands.items()]
            return dict(zip(commands, run_elsewhere(*lines, env=env), strict=True))

        results = run(there, server.server_port)
        asked = list(server.asked)
    finally:
        server.shutdown()
        server.server_close()
    return Ran(results | run(after, nobodys_port()), folder, asked)


@pytest.mark.parametrize("name", ["fetched", "at-main"])
def test_the_manifest_keeps_the_name_and_the_commit(ran: Ran, name: str) -> None:
    assert ran.results[name]["code"] == 0, ran.results[name]
    document = manifest.read(ran.folder / name)
    assert document["source"] == {"name": REPOSITORY, "revision": COMMIT}
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
    message = ran.refusal("no-repository")
    assert message.startswith("the hub refuses someone/nothing: ")
    assert "not found" in message.lower()


def test_a_revision_that_is_not_there_is_told_so(ran: Ran) -> None:
    message = ran.refusal("no-revision")
    assert message.startswith("the hub refuses someone/tiny at revision 'v9': ")
    assert "not found" in message.lower()


def test_a_hub_that_cannot_be_reached_is_told_so(ran: Ran) -> None:
    message = ran.refusal("refused")
    assert message.startswith("someone/other cannot be fetched: ")
    assert "check the connection" in message
