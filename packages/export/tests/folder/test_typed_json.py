"""A document becomes the dataclass whose fields it has, in their order, or is refused by the name of the field."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Required, TypedDict

import pytest
from gpt2_export.folder.typed_json import Whole, one_of, plain, read


class Report(TypedDict, total=False):
    name: Required[str]
    score: float


@dataclass(frozen=True, kw_only=True)
class Part:
    size: Whole
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class Document:
    kind: Annotated[str, one_of(["a", "b"])] = "a"
    parts: Mapping[str, Part]
    words: tuple[str, ...]
    report: Report | None = None
    more: Mapping[str, Report] = field(default_factory=dict)


WHOLE = {
    "kind": "b",
    "parts": {"z": {"size": 1, "revision": None}, "a": {"size": 0, "revision": "x"}},
    "words": ["one", "two"],
    "report": {"score": "of another version", "name": "r"},
    "more": {"m": {"name": "n"}},
}


def test_a_document_is_written_as_it_was_read() -> None:
    found = read(Document, "", WHOLE)
    assert found.words == ("one", "two")
    assert found.parts["a"] == Part(size=0, revision="x")
    assert json.dumps(plain(found)) == json.dumps(WHOLE)


def test_the_order_is_that_of_the_fields() -> None:
    backwards = dict(reversed(WHOLE.items()))
    assert json.dumps(plain(read(Document, "", backwards))) == json.dumps(WHOLE)


def test_what_has_a_default_may_be_absent() -> None:
    found = read(Document, "", {"parts": {}, "words": []})
    assert found == Document(parts={}, words=())
    assert (found.kind, found.report, found.more) == ("a", None, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, "x: kind is \"c\", must be 'a' or 'b'"),
        ({"parts": {"p": {"size": 1}}}, "x: parts: p: revision is absent, must be text"),
        ({"parts": {"p": {"size": True, "revision": None}}}, "x: parts: p: size is true, must be a whole number"),
        ({"words": "one"}, 'x: words is "one", must be a list'),
        ({"words": ["one", None]}, "x: words: 1 is null, must be text"),
        ({"report": {"score": 1.0}}, "x: report: name is absent, must be text"),
        ({"report": []}, "x: report is [], must be an object"),
        ({"more": {"m": {"name": "n", "score": 2**63}}}, "must be a number of below 2**63"),
        ({"unknown": [10**400]}, "must be a number of below 2**63"),
    ],
    ids=str,
)
def test_something_else_is_refused_by_the_name_of_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(Document, "x", WHOLE | change)
