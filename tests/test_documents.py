"""Whatever file, folder or heading the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", ".github/*.md", "packages/*/README.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
# A path of ours: what ends as our files do or in a slash, or begins as our folders do. A user's has another form.
PATH = re.compile(
    r"[\w.*-]+(/[\w.*-]+)*(\.(py|md|toml|ini|yml|yaml|cff)|/)|(packages|tests|benchmarks|\.github|\.ci)/.+"
)


def missing(text: str, place: Path, root: Path = ROOT) -> list[str]:
    """The files and headings that a document in the folder `place` names and that are not there.

    A path starts at the document, at the root, or at a package's source, as `engine/session.py`; a file's name
    alone may be anywhere. It may have stars, and NAME for one.
    """
    text = FENCED.sub("", text)
    named = [path for path in CODE.findall(text) if PATH.fullmatch(path)]
    linked = [link for link in LINK.findall(text) if not link.startswith(("https://", "http://", "#"))]
    headings = [link for link in LINK.findall(text) if link.startswith("#") and link[1:] not in anchors(text)]
    return [
        *(path for path in named if not exists(path, place, root)),
        *(link for link in linked if not leads(link, place)),
        *headings,
    ]


def exists(path: str, place: Path, root: Path) -> bool:
    starts = [place, root, *root.glob("packages/*/src"), *root.glob("packages/*/src/*")]
    path = path.replace("NAME", "*")  # stands for any
    anywhere = [] if "/" in path else [root / folder for folder in ("packages", "tests", "benchmarks", "examples")]
    return any(any(start.glob(path.rstrip("/"))) for start in starts) or any(
        any(folder.rglob(path)) for folder in anywhere
    )


def leads(link: str, place: Path) -> bool:
    """Whether a link from a document in the folder `place` has a file, and that the heading."""
    name, _, heading = link.partition("#")
    target = place / name
    if not target.exists():
        return False
    return not heading or heading in anchors(FENCED.sub("", target.read_text(encoding="utf-8")))


def anchors(text: str) -> set[str]:
    """The names under which a document's headings can be linked to.

    >>> anchors("## How to add a sampler, or `top_k`")
    {'how-to-add-a-sampler-or-top_k'}
    """
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_names_is_there(name: str) -> None:
    path = ROOT / name
    assert missing(path.read_text(encoding="utf-8"), path.parent) == []


def test_all_kinds_of_documents_are_read() -> None:
    expected = {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "packages/runtime/README.md"}
    assert expected <= set(DOCUMENTS)


def test_a_file_that_is_not_there_is_seen(tmp_path: Path) -> None:
    (tmp_path / "packages" / "one" / "src" / "one" / "room").mkdir(parents=True)
    (tmp_path / "packages" / "one" / "src" / "one" / "room" / "noun.py").touch()
    (tmp_path / "other.md").write_text("# A title\n")
    there = "`room/noun.py` `noun.py` `one/room/` `room/*.py` [a](other.md) [b](other.md#a-title) `demo/model.onnx`"
    assert missing(there, tmp_path, tmp_path) == []
    gone = "`room/verb.py` `verb.py` `hall/` `tests/nothing` `hall/*.py` [a](an.md) [b](other.md#another) [c](#no)"
    assert missing(gone, tmp_path, tmp_path) == [
        "room/verb.py", "verb.py", "hall/", "tests/nothing", "hall/*.py", "an.md", "other.md#another", "#no"
    ]  # fmt: skip
