"""Any damage in any file, through every command: an exit code of 0 or 1, one line, within ten seconds and a gigabyte.

GPT2_EXPORT_FUZZ=20 tries twenty times as many.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from damages import do_damage, fuzzed
from gpt2_export.cli.command import main
from gpt2_export.folder import manifest
from gpt2_export.hub import push as hub
from hypothesis import given
from hypothesis import strategies as st

MOST_SECONDS, MOST_BYTES = 10, 10**9
FILES = (
    "manifest.json", "config.json", "generation_config.json", "genai_config.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.json", "merges.txt", "model.onnx", "model_serving.onnx", "model_explain.onnx",
    "model.safetensors",
)  # fmt: skip
SOURCE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "model.safetensors",
)
COMMANDS = {
    "inspect": ["inspect", "FOLDER", "--check-hashes"],
    "json": ["inspect", "FOLDER", "--json"],
    "push": ["push", "FOLDER", "org/name", "--dry-run"],
    "verify": ["verify", "FOLDER"],
    "onnx": ["onnx", "FOLDER"],
    "quantize": ["quantize", "FOLDER", "--precision", "int8", "--max-ppl-increase", "1000"],
    "force": ["freeze", "SOURCE", "FOLDER", "--force"],
}
QUICK = ("inspect", "json", "push", "verify", "force")


@pytest.fixture(scope="module", autouse=True)
def _bounded() -> Iterator[None]:
    """No example may use a gigabyte more than before, however briefly, or contact the Hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "_terms", lambda source: {})
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets Linux's record of the peak
        except OSError:
            yield
            return
        before = _peak()
        yield
        assert _peak() - before < MOST_BYTES


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a folder for each example."""
    return lambda: tmp_path_factory.mktemp("fuzz")


def invoke(words: list[str]) -> None:
    def hang(*_: object) -> None:
        pytest.fail(f"{words} hangs")

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(100)
    began = time.process_time()
    try:
        result = CliRunner().invoke(main, words)
    finally:
        signal.alarm(0)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert time.process_time() - began < MOST_SECONDS
    check(result.exit_code, result.stdout, result.stderr)


def check(code: int, stdout: str, stderr: str) -> None:
    assert code in (0, 1)
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if ": done in " not in line and not line.startswith("warning: ")]
    if code == 0 or "WRONG: " in stdout:
        assert lines == []
    else:
        assert lines[-1].startswith("error: ")
        assert len(lines) == 1 or lines[0].startswith("matrices that lose most")
        assert len(lines[-1]) < 2500


def run(names: tuple[str, ...], folder: Path, source: Path) -> None:
    places = {"FOLDER": str(folder), "SOURCE": str(source)}
    for name in names:
        invoke([places.get(word, word) for word in COMMANDS[name]])


def sealed(folder: Path, name: str) -> None:
    """Updates the manifest's hash of a damaged file, so that its reader gets to see it."""
    document = manifest.read(folder)
    files = {**document.files, **manifest.entries(folder, [name])}
    (folder / manifest.MANIFEST).write_text(manifest.text(replace(document, files=files)))


def damage_folder(data: st.DataObject, made: Path, place: Path) -> Path:
    folder = Path(shutil.copytree(made, place / "folder"))
    name = data.draw(st.sampled_from(FILES))
    do_damage(data, folder / name)
    if name != manifest.MANIFEST and data.draw(st.integers(0, 4)):
        sealed(folder, name)
    return folder


@fuzzed(15)
@given(data=st.data())
def test_any_damage_in_a_made_folder(
    made: Path, source: Path, workplace: Callable[[], Path], data: st.DataObject
) -> None:
    place = workplace()
    folder = damage_folder(data, made, place)
    run(QUICK, folder, source)
    shutil.rmtree(place)


@pytest.mark.nightly
@fuzzed(150)
@given(data=st.data())
def test_any_damage_through_every_command(
    made: Path, source: Path, workplace: Callable[[], Path], data: st.DataObject
) -> None:
    place = workplace()
    folder = damage_folder(data, made, place)
    run(("inspect", "push", "verify", "quantize", "onnx", "verify", "json", "force"), folder, source)
    shutil.rmtree(place)


@fuzzed(30)
@given(data=st.data())
def test_any_damage_in_a_checkpoint(
    source: Path, made: Path, workplace: Callable[[], Path], data: st.DataObject
) -> None:
    place = workplace()
    folder = Path(shutil.copytree(source, place / "source"))
    for name in ("generation_config.json", "tokenizer.json"):
        if data.draw(st.booleans()):
            shutil.copy(made / name, folder / name)
    names = [name for name in SOURCE_FILES if (folder / name).exists()]
    do_damage(data, folder / data.draw(st.sampled_from(names)))
    invoke(["freeze", str(folder), str(place / "out")])
    assert not (place / "out").exists() or manifest.differences(place / "out", manifest.read(place / "out")) == []
    assert {path.name for path in place.iterdir()} <= {"source", "out"}
    shutil.rmtree(place)


@pytest.mark.nightly
def test_three_times_the_examples_find_nothing() -> None:
    environment = os.environ | {"GPT2_EXPORT_FUZZ": "3"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-m", "not nightly"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:]
