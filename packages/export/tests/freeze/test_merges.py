"""Merges are as trained where each makes a token of its own, from two made before, that these spell as the two."""

import json
from pathlib import Path
from typing import Any

import pytest
from gpt2_export.freeze import merges
from gpt2_export.freeze.merges import LONGEST_TOKEN, as_trained


def of(listed: object) -> dict[str, Any]:
    return {"model": {"type": "BPE", "merges": listed}}


@pytest.mark.parametrize("pairs", [False, True], ids=["lines", "pairs"])
def test_what_was_trained_is_as_trained_and_reversed_it_is_not(made: Path, pairs: bool) -> None:
    document = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))
    listed = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in document["model"]["merges"]
    ]
    assert len(listed) > 40
    written = [list(pair) if pairs else " ".join(pair) for pair in listed]
    assert as_trained(of(written))
    assert not as_trained(of(written[::-1]))


@pytest.mark.parametrize(
    "wrong",
    [
        ["a b", "a b"],
        ["a b", "b c", "ab c", "a bc"],  # abc twice
        ["ab c", "a b"],
        ["a 日"],
        ["b c", "a b", "ab c"],  # abc is spelled a bc
        ["a b c"],
        ["ab"],
        None,
    ],
    ids=str,
)
def test_what_no_training_writes_is_not(wrong: object) -> None:
    assert not as_trained(of(wrong))


def test_no_merges_are_as_trained() -> None:
    assert as_trained(of([]))


def test_a_token_that_is_too_long_to_spell_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [["a" * length, "a"] for length in range(1, LONGEST_TOKEN + 1)]
    monkeypatch.setattr(merges, "spelled", lambda token, _: [token[:-1], token[-1]])
    assert as_trained(of(listed[:-1]))
    assert not as_trained(of(listed))
