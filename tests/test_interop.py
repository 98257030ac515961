"""Tests the harness of `tests/interop`, whose consumers have their own environments: `tox -m interop`."""

import json
from pathlib import Path

import gpt2_export
import pytest
from interop import consumers, folders


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The consumers whose results would have been recorded."""
    names: list[str] = []
    monkeypatch.setattr(consumers, "versions", lambda consumer: {})
    monkeypatch.setattr(consumers, "keep", lambda name, versions: names.append(name))
    return names


@pytest.mark.parametrize("code", [1, 2, 5])  # a test failed, was interrupted, was not found
def test_a_run_that_does_not_pass_writes_nothing(
    code: int, recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "tested", lambda name: code)
    assert consumers.main("genai") == code
    assert recorded == []


def test_a_run_that_passes_is_recorded(recorded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "tested", lambda name: 0)
    assert consumers.main("genai") == 0
    assert recorded == ["genai"]


def test_a_missing_program_is_reported_in_one_line(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert consumers.main("browser") == 1
    message = "interop-browser needs chromium and npm on the PATH; on Debian: apt install chromium npm\n"
    assert (capsys.readouterr().out, recorded) == (message, [])


def test_every_consumer_has_tests_and_a_result() -> None:
    for name in consumers.CONSUMERS:
        assert (consumers.HERE / f"test_{name}.py").is_file()
        assert (consumers.RESULTS / f"{name}.json").is_file()


def test_folders_depend_on_the_current_export() -> None:
    export = Path(gpt2_export.__file__).parent
    assert {export / "graphs" / "portable.py", export / "demo/model.safetensors"} <= set(folders.made_of())
    assert folders.digest(folders.made_of()) != folders.digest(folders.made_of()[1:])


@pytest.mark.parametrize("stale", [True, False])
def test_only_stale_folders_are_made_again(stale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(gpt2_export, "make", make)
    sources = "of another day" if stale else folders.digest(folders.made_of())
    (tmp_path / folders.EXPECTED).write_text(json.dumps({"sources": sources}))
    if stale:
        with pytest.raises(InterruptedError):
            folders.main(tmp_path)
    else:
        folders.main(tmp_path)
    assert (tmp_path / folders.EXPECTED).exists() is not stale
