"""Merges that the manifest records as trained are not checked again, if the file is the recorded one."""

import hashlib
import json

import pytest
from gpt2_runtime import Bundle
from gpt2_runtime.errors import TokenizerError
from gpt2_runtime.text.generator import open_tokenizer
from gpt2_runtime.tokenizer import vocabulary
from gpt2_runtime.tokenizer.tokenizer import Tokenizer, refusal


class ProvenError(Exception):
    pass


@pytest.fixture
def proving(monkeypatch):
    """Makes the check of merges raise, to show that it runs."""

    def prove(_):
        raise ProvenError

    monkeypatch.setattr(vocabulary, "as_trained", prove)


def opened(folder, change):
    """Changes a tokenizer.json, and opens it with the claim that its merges are as trained."""
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    change(fields["model"])
    path.write_text(json.dumps(fields))
    return Tokenizer.open(folder, trained_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.usefixtures("proving")
def test_recorded_merges_are_not_checked_again(folder):
    tokenizer = open_tokenizer(Bundle.open(folder))
    assert tokenizer.decode(tokenizer.encode("the other dogs")) == "the other dogs"


@pytest.mark.usefixtures("proving")
def test_merges_are_checked_without_a_record_or_with_check_hashes(folder, damaged, edit):
    edit(damaged / "manifest.json", lambda m: m.pop("tokenizer"))
    for bundle in (Bundle.open(damaged), Bundle.open(folder, check_hashes=True)):
        with pytest.raises(ProvenError):
            open_tokenizer(bundle)


@pytest.mark.usefixtures("proving")
def test_merges_of_another_file_than_recorded_are_checked(damaged):
    bundle = Bundle.open(damaged)
    path = damaged / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ProvenError):
        open_tokenizer(bundle)


def test_the_vocabulary_is_the_same_checked_or_not(folder):
    proven, unproven = open_tokenizer(Bundle.open(folder)), Tokenizer.open(folder)
    assert proven.vocabulary == unproven.vocabulary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model["merges"].reverse(), "joins tokens that no earlier merge makes"),
        (lambda model: model["merges"].append(model["merges"][0]), "makes a token that an earlier merge already makes"),
    ],
    ids=["order", "twice"],
)
def test_a_wrong_claim_is_refused_where_the_check_is_free(damaged, change, message):
    with pytest.raises(TokenizerError, match=message):
        opened(damaged, change)


def unreachable(model):
    """zqx is made of zq and x, but text comes to z and qx."""
    last = ["".join(merge).replace(" ", "") for merge in model["merges"][-3:]]
    model["merges"][-3:] = [["q", "x"], ["z", "q"], ["zq", "x"]]
    model["vocab"] |= {new: model["vocab"].pop(old) for old, new in zip(last, ("qx", "zq", "zqx"), strict=True)}


def test_a_wrong_claim_is_refused_with_check_hashes(folder, damaged, edit):
    assert opened(damaged, unreachable).encode("the") == Tokenizer.open(folder).encode("the")
    data = (damaged / "tokenizer.json").read_bytes()
    sealed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(damaged / "manifest.json", lambda m: m["files"].update({"tokenizer.json": sealed}))
    assert open_tokenizer(Bundle.open(damaged)) is not None
    assert open_tokenizer(Bundle.open(damaged, check_hashes=True)) is None
    assert "is unreachable" in str(refusal(damaged))
