"""The README's Python examples run and print what they say."""

import doctest
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_examples_of_the_readme_run(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)  # so that the folder is called "tiny" there
    results = doctest.testfile(str(README), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 5
    assert results.failed == 0
