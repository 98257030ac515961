"""transformers.js in Chromium, headless, on wasm: greedy tokens of single prompts and of left-padded batches, where it
stops, tokens of hard texts; the page requests no missing file.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from interop.consumers import program

HERE = Path(__file__).parent
SECONDS = 300
# In a page onnxruntime sees no folder: transformers.js must be given the name of the graph's data file.
OPTIONS = {
    "subfolder": "",
    "session_options": {"externalData": [{"path": "model.safetensors", "data": "model.safetensors"}]},
}


class Site(ThreadingHTTPServer):
    """Serves the page, its modules and the folders; receives the page's result."""

    def __init__(self, places: dict[str, Path], questions: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.places, self.questions = places, questions
        self.missing: list[str] = []
        self.result: dict[str, Any] = {}
        self.answered = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Requests(SimpleHTTPRequestHandler):
    server: Site

    def translate_path(self, path: str) -> str:
        first, _, rest = path.lstrip("/").partition("/")
        if first in self.server.places:
            self.directory = str(self.server.places[first])
            return super().translate_path(rest)
        self.directory = str(HERE)
        return super().translate_path(path)

    def do_GET(self) -> None:
        if self.path != "/questions.json":
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.questions)

    def do_POST(self) -> None:
        self.server.result = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()
        self.server.answered.set()

    def send_error(self, *args: Any, **options: Any) -> None:
        self.server.missing.append(self.path)
        super().send_error(*args, **options)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(cases: dict[str, Any], questions: dict[str, Any]) -> Iterator[Site]:
    places = {
        "folders": cases["tiny"].folder.parent,
        "node_modules": Path(os.environ["INTEROP_MODULES"]) / "node_modules",
    }
    with Site(places, json.dumps({"questions": questions, "options": OPTIONS}).encode()) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site
        site.shutdown()


@pytest.fixture(scope="module")
def answers(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("chromium")
    # Its sandbox needs rights that a container lacks; the page is our own.
    switches = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place / 'profile'}"]
    with (place / "log").open("w") as log:
        browser = subprocess.Popen(
            [program("chromium"), *switches, f"{site.address}/page.html"], stdout=log, stderr=log
        )
        try:
            for _ in range(SECONDS):
                if site.answered.wait(1) or browser.poll() is not None:
                    break
        finally:
            browser.terminate()
            browser.wait()
    assert site.answered.is_set(), f"no result from the page\n{(place / 'log').read_text()}"
    assert "error" not in site.result, site.result["error"]
    result: dict[str, Any] = site.result["answers"]
    return result


def test_single_prompts_are_continued(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["greedy"] == case.greedy


def test_a_padded_batch_is_continued_as_each_row_alone(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["batch"] == case.greedy


def test_it_stops_at_the_end_of_text(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["stopped"] == [row["new_ids"] for row in case.stopped]


def test_texts_have_the_runtimes_tokens(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["tokens"] == case.tokens


def test_the_page_requests_no_missing_file(answers: dict[str, Any], site: Site) -> None:
    assert not site.missing
