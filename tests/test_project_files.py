"""The files around the code say the same as the code: editor, hooks, citation, the forms of issues."""

import re
import tomllib
from pathlib import Path
from typing import Any

import distributions
import pytest
import yaml

ROOT = Path(__file__).parent.parent
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")  # of changes, in this order
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_editor_breaks_lines_where_ruff_does() -> None:
    settings = (ROOT / ".editorconfig").read_text(encoding="utf-8")
    found = re.search(r"^\[\*\.py\]\nmax_line_length = (\d+)$", settings, re.MULTILINE)
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert found is not None
    assert int(found[1]) == ruff["line-length"]


def test_a_commit_is_checked_by_the_ruff_that_checks_everything() -> None:
    (pinned,) = re.findall(r"^ruff==.+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    hooks = [hook for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert [hook["additional_dependencies"] for hook in hooks] == [[pinned]] * 2
    assert [" ".join(hook["entry"].split()[:2]) for hook in hooks] == ["ruff check", "ruff format"]


def test_the_citation_names_this_version_its_authors_and_its_license() -> None:
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == distributions.version()
    for package in distributions.PACKAGES:
        project = tomllib.loads((ROOT / f"packages/{package}/pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert (citation["authors"], citation["license"]) == (project["authors"], project["license"])


def test_the_changelog_is_in_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert [line for line in releases[1:] if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line)] == []
    for section in text.split("\n## ")[1:]:
        kinds = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds]


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert [form.stem for form in FORMS] == ["bug", "checkpoint", "feature"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_a_form_is_one_that_can_be_filled_in(form: Path) -> None:
    found = yaml.safe_load(form.read_text(encoding="utf-8"))
    fields = [field for field in found["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert found["name"]
    assert found["description"]
    assert len(set(names)) == len(names)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    assert all(isinstance(choice, str) for field in fields for choice in field["attributes"].get("options", []))
