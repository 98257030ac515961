"""A stand-in for the Hugging Face Hub: the part of its HTTP API that huggingface_hub uses for model repositories.

It keeps commits in memory, stores large files as LFS does, and misbehaves where a repository is set to. It does not
offer Xet storage: set HF_HUB_DISABLE_XET if hf_xet may be installed and something is pushed.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

NOWHERE = "http://127.0.0.1:9"  # the port of the discard service, where nothing listens
LARGE = (".safetensors", ".onnx", ".bin", ".h5")  # stored by LFS, as the Hub's own .gitattributes says
CREATED = {".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"}  # the commit that a new repository has
GATED = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"})
FORBIDDEN = (403, {"X-Error-Message": "You do not have the rights"})
BAD_TOKEN = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})

Files = dict[str, bytes]


@dataclass(kw_only=True)
class Repository:
    """One repository: its commits, and how it misbehaves.

    Attributes:
        commits: commit -> its files.
        branches: branch or tag -> commit.
        messages: commit -> its message.
        card_data: the metadata of its card, as the API returns it.
        private: whether it is visible only with the Hub's token.
        moves_to: main becomes this commit after the first answer.
        cuts: how many downloads of a large file are cut in the middle.
        garbles: files served with bytes that do not match their hash in the API.
        refuses: a request ("info", "resolve", "create", "preupload", "batch", "upload", "commit") -> its answer.
    """

    commits: dict[str, Files]
    branches: dict[str, str]
    messages: dict[str, str] = field(default_factory=dict)
    card_data: dict[str, Any] = field(default_factory=dict)
    private: bool = False
    moves_to: str | None = None
    cuts: int = 0
    garbles: set[str] = field(default_factory=set)
    refuses: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)

    @property
    def files(self) -> Files:
        """The files on main."""
        return self.commits[self.branches["main"]]

    def commit(self, files: Files, branch: str = "main", message: str = "") -> str:
        """Adds a commit with exactly these files."""
        content = json.dumps([len(self.commits), {name: sha256(data) for name, data in sorted(files.items())}])
        name = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        self.commits[name], self.branches[branch], self.messages[name] = dict(files), name, message
        return name


class Hub(ThreadingHTTPServer):
    """The server; `requests` lists what was requested, and by whom.

    Attributes:
        repositories: name -> repository.
        stored: the content of large files that were uploaded, by sha256.
        token: needed to see a private repository, and to write to any.
        requests: method, path and Authorization of each request.
        ranges: the Range of each request that had one.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, Repository] = {}
        self.stored: Files = {}
        self.token = "hf_standin"
        self.requests: list[tuple[str, str, str | None]] = []
        self.ranges: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: Files, **options: Any) -> Repository:
        """A repository with one commit, on main."""
        repository = self.repositories[name] = Repository(commits={}, branches={}, **options)
        repository.commit(files)
        return repository

    def settings(self, home: Path, **more: str) -> dict[str, str]:
        """The environment in which huggingface_hub uses this server as the Hub, and `home` for its cache."""
        return settings(self.address, home, **more)


def settings(address: str, home: Path, **more: str) -> dict[str, str]:
    """The same for any address."""
    return {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_TOKEN": "",  # the user's own must not reach the tests
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
    } | more


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})  # the time it takes to stop
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def described(name: str, data: bytes) -> dict[str, Any]:
    """A file's entry in the API; a large one's `oid` is that of the pointer in git."""
    if not name.endswith(LARGE):
        return {"size": len(data), "oid": git_oid(data)}
    lfs = {"oid": sha256(data), "sha256": sha256(data), "size": len(data), "pointerSize": 134}
    return {"size": len(data), "oid": git_oid(sha256(data).encode()), "lfs": lfs}


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    questions = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
        ("GET", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "resolve"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<branch>[^/]+)", "branch"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/upload/(?P<name>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", "upload"),
        ("POST", r"/verify/(?P<name>[^/]+/[^/]+)", "verify"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
    )

    def handle_one_question(self) -> None:
        path, _, self.query = self.path.partition("?")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        method = "GET" if self.command == "HEAD" else self.command
        for verb, pattern, question in self.questions:
            match = re.fullmatch(pattern, path) if verb == method else None
            if match:
                self.answer_question(question, {key: unquote(value) for key, value in match.groupdict("").items()})
                return
        self.answer(404, {"error": f"the stand-in does not know {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_one_question  # noqa: N815 (http.server's own spelling)

    def answer_question(self, question: str, about: dict[str, str]) -> None:
        if question == "create":
            request = json.loads(self.body)
            about["name"] = f"{request['organization']}/{request['name']}"
        repository = self.server.repositories.get(about.get("name", ""))
        with_token = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if repository and question in repository.refuses:
            self.refuse(*repository.refuses[question])
        elif question in ("validate", "upload", "verify"):  # signed addresses, or nothing to protect
            getattr(self, f"on_{question}")(**about)
        elif self.command == "POST" and not with_token:
            self.refuse(*BAD_TOKEN)
        elif question == "create":
            self.on_create(about["name"], repository)
        elif repository is None or (repository.private and not with_token):
            self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            getattr(self, f"on_{question}")(repository, **about)

    def on_info(self, repository: Repository, name: str, revision: str) -> None:
        commit = self.commit_of(repository, revision or "main")
        if commit is None:
            return
        siblings = []
        for file, data in repository.commits[commit].items():
            entry = described(file, data)
            blob = {"size": entry["size"], "blobId": entry["oid"]} | {k: entry[k] for k in ("lfs",) if k in entry}
            siblings.append({"rfilename": file} | (blob if "blobs=" in self.query.lower() else {}))
        self.answer(
            200,
            {
                "id": name,
                "sha": commit,
                "private": repository.private,
                "siblings": siblings,
                "cardData": repository.card_data,
            },
        )
        if repository.moves_to:
            repository.branches["main"] = repository.moves_to

    def on_tree(self, repository: Repository, name: str, revision: str) -> None:
        commit = self.commit_of(repository, revision)
        if commit is not None:
            files = repository.commits[commit].items()
            self.answer(200, [{"type": "file", "path": file} | described(file, data) for file, data in files])

    def on_resolve(self, repository: Repository, name: str, revision: str, file: str) -> None:
        commit = self.commit_of(repository, revision)
        if commit is None:
            return
        if file not in repository.commits[commit]:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            self.answer(404, {"error": "Entry not found"}, headers)
            return
        data = repository.commits[commit][file]
        etag = sha256(data) if file.endswith(LARGE) else git_oid(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if file in repository.garbles:
            data = bytes(byte ^ 1 for byte in data)
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0").partition("-")[0]))
        if start:
            self.server.ranges.append(self.headers["Range"])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.command == "GET" and file.endswith(LARGE) and repository.cuts > 0
        repository.cuts -= cut
        self.answer(206 if start else 200, data[start:], headers, cut=cut)

    def on_create(self, name: str, repository: Repository | None) -> None:
        url = {"url": f"{self.server.address}/{name}"}
        if repository is None:
            self.server.add(name, CREATED, private=json.loads(self.body).get("visibility") == "private")
            self.answer(200, url)
        else:
            self.answer(409, url | {"error": "You already created this model repo"})

    def on_branch(self, repository: Repository, name: str, branch: str) -> None:
        if branch in repository.branches:
            self.answer(409, {"error": "Reference already exists"})
        else:
            repository.branches[branch] = repository.branches["main"]
            self.answer(200, {})

    def on_validate(self) -> None:
        _, metadata, body = json.loads(self.body)["content"].split("---\n", 2)
        self.answer(200, {"errors": [], "warnings": [] if metadata and body else [{"message": "empty metadata"}]})

    def on_preupload(self, repository: Repository, name: str, revision: str) -> None:
        commit = self.commit_of(repository, revision)
        if commit is None:
            return
        files = []
        for request in json.loads(self.body)["files"]:
            there = repository.commits[commit].get(request["path"])
            mode = "lfs" if request["path"].endswith(LARGE) else "regular"
            oid = None if there is None else (sha256(there) if mode == "lfs" else git_oid(there))
            files.append({"path": request["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def on_batch(self, repository: Repository, name: str) -> None:
        objects = []
        for request in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.server.address}/upload/{name}/{request['oid']}"},
                "verify": {"href": f"{self.server.address}/verify/{name}"},
            }
            objects.append(request if request["oid"] in self.server.stored else request | {"actions": actions})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def on_upload(self, name: str, oid: str) -> None:
        assert sha256(self.body) == oid
        self.server.stored[oid] = self.body
        self.answer(200, b"")

    def on_verify(self, name: str) -> None:
        request = json.loads(self.body)
        whole = len(self.server.stored.get(request["oid"], b"")) == request["size"]
        self.answer(200 if whole else 404, {})

    def on_commit(self, repository: Repository, name: str, revision: str) -> None:
        head, *lines = [json.loads(line) for line in self.body.splitlines()]
        commit = self.commit_of(repository, revision)
        if commit is None:
            return
        if head["value"].get("parentCommit", commit) != commit:
            self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(repository.commits[commit])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
            else:
                del files[value["path"]]
        as_request = "create_pr=1" in self.query
        made = repository.commit(files, "refs/pr/1" if as_request else revision, head["value"]["summary"])
        address = f"{self.server.address}/{name}"
        request = {"pullRequestUrl": f"{address}/discussions/1"} if as_request else {}
        self.answer(200, {"commitUrl": f"{address}/commit/{made}", "commitOid": made} | request)

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        self.answer(status, {"error": headers.get("X-Error-Message", "refused")}, headers)

    def commit_of(self, repository: Repository, revision: str) -> str | None:
        """The commit of a revision; if there is none, answers with an error."""
        commit = repository.branches.get(revision, revision)
        if commit in repository.commits:
            return commit
        self.answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return None

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        """Says nothing."""
