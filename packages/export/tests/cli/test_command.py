"""The command does what its help says, and an error is one line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from gpt2_export.cli.command import main
from gpt2_export.folder import manifest
from gpt2_export.graphs import export, kinds
from gpt2_export.graphs.explain import EXPLAIN

Run = Callable[..., Result]
Refusal = Callable[..., str]
COMMANDS = ["make", "freeze", "onnx", "verify", "inspect", "push"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_is_a_valid_command_line(run: Run, command: str) -> None:
    shown = run(command, "--help").stdout
    (example,) = re.findall(r"^ +gpt2-export (.+)$", shown, re.MULTILINE)
    name, *arguments = example.split()
    assert name == command
    context = main.commands[name].make_context(name, arguments, resilient_parsing=False)
    assert isinstance(context, click.Context)


def test_the_first_help_names_every_command_in_whole_sentences(run: Run) -> None:
    shown = run("--help").stdout
    for command in COMMANDS:
        (line,) = re.findall(rf"^  {command} +(.+)$", shown, re.MULTILINE)
        assert line.endswith("."), line
        assert not line.endswith("..."), line


@pytest.mark.parametrize("command", [[], ["make"], ["freeze"]])
def test_no_line_of_help_is_wider_than_a_terminal(run: Run, command: list[str]) -> None:
    assert max(len(line) for line in run(*command, "-h").stdout.splitlines()) <= 100


def test_the_version_is_the_packages(run: Run) -> None:
    assert re.search(r"\d+\.\d+\.\d+", run("--version").stdout)


def test_help_and_version_come_without_loading_torch() -> None:
    code = "import sys; from gpt2_export.cli.command import main; main(['--help'], standalone_mode=False)"
    code += "; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "gpt2_export.cli.command" in shown.split()
    assert "torch" not in shown.split()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "code",
    [
        "import click\nwith cli.one_line_errors(debug=False): click.echo('made')",
        "cli.main(['--help'])",
        "cli.main(['make', '--help'])",
        "cli.main(['--version'])",
    ],
)
def test_a_full_output_is_reported_in_one_line(code: str) -> None:
    """And not a second time by Python when it flushes its buffer at exit."""
    code = f"from gpt2_export.cli import command as cli\n{code}"
    with Path("/dev/full").open("w") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}
        process = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert process.returncode == 1
    message = "error: output cannot be written: No space left on device; free some space, or write it elsewhere\n"
    assert process.stderr == message


def test_make_shows_its_stages_on_stderr_and_the_numbers_on_stdout(
    run: Run, source: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same graphs again: tracing takes seconds.
    monkeypatch.setattr(export, "base", lambda kind, *_: (made / kind.file).read_bytes())
    monkeypatch.setattr(export, "finished", lambda base, *_: base)
    monkeypatch.setattr(export, "write", lambda ready, path, *_: path.write_bytes(ready))
    ran = run("make", source, tmp_path / "out")
    assert ran.exit_code == 0
    assert [line.split(":")[0] for line in ran.stderr.splitlines() if "transformers" not in line] == [
        "open", "freeze", "export", "verify",
    ]  # fmt: skip
    assert re.search(r"^parity +against torch .+ limit is 0\.0001$", ran.stdout, re.MULTILINE)
    for kind in kinds.KINDS:
        how = "attention .+, lens .+" if kind is EXPLAIN else "greedy 17 of 17"
        assert re.search(rf"{kind.name}: logits within .+ {how}", ran.stdout)
    assert re.search(r"out: 11 files, [\d,]+ bytes\n$", ran.stdout)
    assert manifest.differences(tmp_path / "out", manifest.read(tmp_path / "out")) == []


def test_a_warning_is_shown_and_kept(run: Run, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    ran = run("freeze", make_checkpoint(config={"mystery": 3}), tmp_path / "out", "--ignore-config", "mystery")
    assert ran.exit_code == 0
    assert "warning: config.json: mystery was left out, as requested\n" in ran.stderr
    assert len(manifest.read(tmp_path / "out").warnings) == 2  # the other: no tokenizer


def test_inspect_shows_a_table(run: Run, made: Path) -> None:
    ran = run("inspect", made)
    assert ran.exit_code == 0
    assert "model.safetensors" in ran.stdout
    assert "12 MatMul" in ran.stdout
    assert ran.stderr == ""


def test_inspect_prints_one_json_object(run: Run, made: Path) -> None:
    ran = run("inspect", made, "--json", "--check-hashes")
    report = json.loads(ran.stdout)
    assert report["differences"] == []
    assert report["graphs"]["fp32"]["portable"]["operators"]["MatMul"] == 12


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_changed_byte_is_detected_and_the_exit_code_is_1(run: Run, made_copy: Path, options: list[str]) -> None:
    content = bytearray((made_copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (made_copy / "model.safetensors").write_bytes(content)
    assert run("inspect", made_copy, *options).exit_code == 0
    ran = run("inspect", made_copy, "--check-hashes", *options)
    assert ran.exit_code == 1
    assert "model.safetensors has another sha256" in ran.stdout


def test_force_makes_the_folder_again(run: Run, refusal: Refusal, source: Path, tmp_path: Path) -> None:
    assert run("freeze", source, tmp_path / "out").exit_code == 0
    assert "exists; remove it, choose another name, or pass force (--force)" in refusal(
        "freeze", source, tmp_path / "out"
    )
    (tmp_path / "out" / "config.json").write_text("changed")
    assert run("freeze", source, tmp_path / "out", "--force").exit_code == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "gpt2"


def test_debug_shows_the_traceback_above_the_line(run: Run, tmp_path: Path) -> None:
    ran = run("freeze", tmp_path, tmp_path / "out", "--debug")
    assert ran.exit_code == 1
    assert "Traceback (most recent call last)" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: ")


def test_an_interrupt_is_one_line_and_leaves_nothing(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "base", interrupt)
    ran = run("make", source, tmp_path / "out")
    assert ran.exit_code == 130
    assert ran.stderr.splitlines()[-1] == "interrupted; nothing was left behind"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["make"], ["make", "source"], ["mak"], ["inspect", "--nope"], ["freeze"]])
def test_a_wrong_command_line_is_clicks_own_error(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.exit_code == 2
    assert "Usage: " in ran.stderr


@pytest.mark.parametrize("command", [["onnx"], ["verify"], ["inspect"], ["push", "org/name"]])
@pytest.mark.parametrize("kind", ["absent", "file", "checkpoint"])
def test_a_folder_that_gpt2_export_did_not_make_is_refused(
    refusal: Refusal, source: Path, tmp_path: Path, command: list[str], kind: str
) -> None:
    (tmp_path / "file").write_text("x")
    folder = {"absent": tmp_path / "gone", "file": tmp_path / "file", "checkpoint": source}[kind]
    assert "has no manifest.json; make it with `gpt2-export make SOURCE" in refusal(command[0], folder, *command[1:])


def test_verify_refuses_a_changed_folder(refusal: Refusal, made_copy: Path) -> None:
    (made_copy / "config.json").unlink()
    assert "was changed after it was made: config.json is missing; make it again" in refusal("verify", made_copy)


def test_a_progress_bar_is_cleared_before_the_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2_export.errors import GraphError

    def fail(*_: object) -> None:
        raise GraphError("lost")

    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    monkeypatch.setattr(export, "base", fail)
    ran = CliRunner().invoke(main, ["make", str(source), str(tmp_path / "out")])
    assert ran.exit_code == 1
    assert re.search(r"(\n|\r\x1b\[K)error: lost\n$", ran.stderr), ran.stderr[-80:]


HOSTILE = "evil\x1b[2J\x1b]0;pwn\x07\nparity      all fine\u202e\x9b `é"


@pytest.fixture
def hostile(made_copy: Path) -> Path:
    """A folder whose manifest contains terminal control sequences."""
    document = manifest.read(made_copy).to_dict()
    document["source"]["name"] = document["generator"]["version"] = document["parity"]["reference"] = HOSTILE
    document["warnings"].append(HOSTILE)
    (made_copy / "manifest.json").write_text(json.dumps(document))
    return made_copy


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"], ["push", "org/name", "--dry-run"]])
def test_an_untrusted_manifest_cannot_control_the_terminal(run: Run, hostile: Path, command: list[str]) -> None:
    ran = run(command[0], hostile, *command[1:])
    assert ran.exit_code == 0
    assert all(each.isprintable() for each in ran.stdout.split("\n"))
    assert not re.search("^parity      all fine", ran.stdout, re.MULTILINE)
    assert "é" in ran.stdout
    assert ": `evil\\x1b[2J" in ran.stdout if command[0] == "push" else HOSTILE not in ran.stdout


def test_json_of_an_untrusted_manifest_is_the_same_text(run: Run, hostile: Path) -> None:
    assert json.loads(run("inspect", hostile, "--json").stdout)["source"]["name"] == HOSTILE


def test_an_argument_cannot_control_the_terminal(refusal: Refusal) -> None:
    message = refusal("inspect", "no\nsu\x1b[31mch")
    assert message.isprintable()
    assert "su\\x1b[31mch" in message


@pytest.mark.parametrize("command", ["inspect nowhere", "push nowhere org/name --dry-run", "--help"])
def test_a_closed_standard_output_is_refused_first(command: str) -> None:
    ran = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "from gpt2_export.cli.entry import main; main()" {command} >&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, "error: standard output is closed; open it, or send it to a file\n")
