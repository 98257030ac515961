"""The prose is plain English: words that a native engineer would not write do not occur in it."""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The trees that have been read; a trailing slash means everything below it.
TREES = (
    "README.md",
    "tox.ini",
    "benchmarks/",
    "examples/",
    "packages/",
    "tests/",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
)
# Each with the usual words for it.
WORDS = {
    r"told|tells?|telling": "reports, says, shows",
    r"anew": "again",
    r"nobody": "no one, or name who",
    r"somebody'?s?": "another, the user",
    r"asked for|asks? for": "requested, requires",
    r"of which": "a sentence of its own",
    r"so many": "n, this many",
    r"goes? on with|gone on|going on": "continues, resumes",
    r"(?<!there )is no (?:setting|folder|file|token|graph|tokenizer|journal|pickle)": "is not a",
    r"what it lacks": "what is missing",
    r"strangers?'?": "untrusted",
    r"whatever becomes": "even if",
}
PATTERN = re.compile(r"\b(?:" + "|".join(WORDS) + r")\b", re.IGNORECASE)
GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->|^```.*?^```", re.DOTALL | re.MULTILINE)  # a model's words too
# Not prose of ours: a text to learn from, and this list.
EXCEPT = {"packages/export/src/gpt2_export/demo/README.md", "tests/test_prose.py"}


def tracked() -> list[str]:
    """The files of the trees, as git lists them."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *TREES]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and name not in EXCEPT and (ROOT / name).exists()]


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """The lines of prose with their numbers: all of a document; comments, strings and names of a Python file.

    >>> list(prose("a.py", "x = 'some text'  # a reason"))
    [(1, 'x'), (1, "'some text'"), (1, '# a reason')]
    """
    if not name.endswith(".py"):
        yield from enumerate(GENERATED.sub(blank, text).splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            yield from enumerate(token.string.splitlines(), start=token.start[0])
        elif token.type == tokenize.NAME and token.string != "tell":  # the method of files
            yield token.start[0], token.string.replace("_", " ").strip()


def complaints(name: str, text: str) -> list[str]:
    if not PATTERN.search(text.replace("_", " ")):  # most files: no need to read their tokens
        return []
    return [
        f"{name}:{number}: {found[0]!r} in {line.strip()!r}"
        for number, line in prose(name, text)
        if (found := PATTERN.search(line))
    ]


def test_no_word_of_the_list_is_written() -> None:
    names = [name for name in tracked() if name.endswith((".py", ".md", ".ini"))]
    assert len(names) > 200
    wrong = [each for name in names for each in complaints(name, (ROOT / name).read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "It goes on with\nwhat nobody asked."),
        ("a.py", "told = 1"),
        ("a.py", "# made anew"),
        ("a.py", '"""One.\n\nAnd what was asked for.\n"""'),
        ("a.py", "def test_an_error_is_told(): ..."),
    ],
)
def test_a_word_of_the_list_is_caught(name: str, text: str) -> None:
    assert complaints(name, text)


def test_generated_parts_and_code_blocks_of_a_document_may_say_anything() -> None:
    assert not complaints("a.md", "<!-- generated: x -->\nnobody\n<!-- end -->\n\n```\nanew\n```\n")
