"""The workflows of CI run what tox.ini has, on the Pythons that the packages declare, and with few permissions."""

import configparser
import itertools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)")


def expand(names: str) -> list[str]:
    """The environments that tox means by a name with braces.

    >>> expand("py{311,312}-runtime")
    ['py311-runtime', 'py312-runtime']
    """
    parts = [part.split(",") for part in re.split(r"[{}]", names)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def tox() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read(ROOT / "tox.ini", encoding="utf-8")
    return found


def environments(label: str | None = None) -> set[str]:
    """All environments that tox.ini has, or those of a label."""
    sections = {name.removeprefix("testenv:"): section for name, section in tox().items() if "testenv:" in name}
    return {
        environment
        for names, section in sections.items()
        if label is None or label in section.get("labels", "").split()
        for environment in expand(names)
    }


def workflow(name: str) -> dict[str, Any]:
    """A workflow as GitHub reads it; YAML's own rules make the key `on` a boolean."""
    found: dict[Any, Any] = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, key, job) for name in WORKFLOWS for key, job in workflow(name)["jobs"].items()]


def matrix(name: str) -> dict[str, str]:
    """The environments that a workflow runs, each with its Python."""
    included = workflow(name)["jobs"]["tox"]["strategy"]["matrix"]["include"]
    found = {row["env"]: row["python"] for row in included}
    assert len(found) == len(included)
    return found


def steps() -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, _, job in jobs() for step in job.get("steps", [])]


def declared(package: str) -> set[str]:
    """The Pythons of a package's classifiers."""
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    return {match[1] for line in tomllib.loads(text)["project"]["classifiers"] if (match := CLASSIFIER.fullmatch(line))}


def test_the_tests_are_the_default_matrix() -> None:
    default = [name for line in tox()["tox"]["env_list"].split() for name in expand(line)]
    assert list(matrix("tests")) == default
    assert set(default) <= environments()


def test_nightly_is_what_has_that_label() -> None:
    assert set(matrix("nightly")) == environments("nightly") != set()


def test_every_environment_that_is_named_exists() -> None:
    named = [
        name
        for _, step in steps()
        for name in re.findall(r"\btox run -e (\S+)", step.get("run", ""))
        if name != '"$TOX_ENV"'
    ]
    assert named == ["distributions"]
    assert set(named) <= environments()


def test_an_environment_gets_the_python_that_its_name_says() -> None:
    for environment, python in (matrix("tests") | matrix("nightly")).items():
        named = re.match(r"py3(\d+)-", environment)
        assert python == (f"3.{named[1]}" if named else "3.11"), environment


def test_the_pythons_that_run_a_package_are_those_that_it_declares() -> None:
    runtime = {python for name, python in matrix("tests").items() if name.endswith("-runtime")}
    torch = {python for name, python in matrix("tests").items() if name.endswith("-torch")}
    assert declared("runtime") == runtime
    assert declared("model") == declared("export") == torch


def test_a_missing_interpreter_is_an_error() -> None:
    commands = [step["run"] for _, step in steps() if "tox run" in step.get("run", "")]
    assert len(commands) == 3
    assert [command for command in commands if "--skip-missing-interpreters false" not in command] == []


def test_actions_are_pinned_to_a_major_version() -> None:
    used = {step["uses"] for _, step in steps() if "uses" in step}
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", action)] == []


def test_jobs_may_only_read_and_only_publishing_may_request_a_token() -> None:
    assert [name for name in WORKFLOWS if workflow(name)["permissions"] != {"contents": "read"}] == []
    more = {(name, key): job["permissions"] for name, key, job in jobs() if "permissions" in job}
    assert more == {("release", "publish"): {"id-token": "write"}}
    assert [name for name, path in WORKFLOWS.items() if "secrets" in path.read_text(encoding="utf-8")] == []


def test_no_checkout_keeps_its_credentials() -> None:
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


def test_no_command_contains_untrusted_text() -> None:
    assert [step["run"] for _, step in steps() if "${{" in step.get("run", "")] == []


def test_a_release_is_tested_and_each_project_published_once() -> None:
    release = workflow("release")
    assert release["on"] == {"push": {"tags": ["v*"]}}
    publish = release["jobs"]["publish"]
    assert set(publish["needs"]) == set(release["jobs"]) - {"publish"} == {"tests", "nightly", "distributions"}
    for name in ("tests", "nightly"):
        assert release["jobs"][name]["uses"] == f"./.github/workflows/{name}.yml"
        assert "workflow_call" in workflow(name)["on"]
    assert publish["strategy"]["matrix"]["package"] == ["model", "export", "runtime"]
    assert publish["environment"] == "pypi-${{ matrix.package }}"


def test_nightly_runs_every_night() -> None:
    (schedule,) = workflow("nightly")["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", schedule["cron"])


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="needs bash and curl")
def test_another_vocabulary_than_gpt2s_is_refused(tmp_path: Path) -> None:
    """CI downloads it; here the place is a folder, so that no test opens the network."""
    there = tmp_path / "there"
    there.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (there / name).write_text("{}")
    command = [ROOT / ".ci" / "vocabulary", tmp_path / "here"]
    done = subprocess.run(command, env=os.environ | {"VOCABULARY_URL": there.as_uri()}, capture_output=True)
    assert done.returncode != 0
    assert b"vocab.json: FAILED" in done.stdout
