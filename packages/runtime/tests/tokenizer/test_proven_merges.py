"""Merges that the manifest says to be as trained are not proven again, where the file is the one that it means."""

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
    """A proof that says so."""

    def prove(_):
        raise ProvenError

    monkeypatch.setattr(vocabulary, "as_trained", prove)


def opened(folder, change):
    """The tokenizer of a copied folder after a change of its model, whose merges are then claimed to be as trained."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    change(document["model"])
    path.write_text(json.dumps(document))
    return Tokenizer.open(folder, trained_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.usefixtures("proving")
def test_what_was_proven_is_not_proven_again(folder):
    tokenizer = open_tokenizer(Bundle.open(folder))
    assert tokenizer.decode(tokenizer.encode("the other dogs")) == "the other dogs"


@pytest.mark.usefixtures("proving")
def test_it_is_proven_where_the_manifest_does_not_say_so_or_all_is_checked(folder, damaged, edit):
    edit(damaged / "manifest.json", lambda m: m.pop("tokenizer"))
    for bundle in (Bundle.open(damaged), Bundle.open(folder, check_hashes=True)):
        with pytest.raises(ProvenError):
            open_tokenizer(bundle)


@pytest.mark.usefixtures("proving")
def test_what_was_proven_of_another_file_says_nothing_of_this_one(damaged):
    bundle = Bundle.open(damaged)
    path = damaged / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ProvenError):
        open_tokenizer(bundle)


def test_the_vocabulary_is_the_same_proven_or_not(folder):
    proven, unproven = open_tokenizer(Bundle.open(folder)), Tokenizer.open(folder)
    assert proven.vocabulary == unproven.vocabulary


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda model: model["merges"].reverse(), "joins what no earlier merge makes"),
        (lambda model: model["merges"].append(model["merges"][0]), "makes a token that an earlier merge makes"),
    ],
    ids=["order", "twice"],
)
def test_a_wrong_claim_is_refused_by_the_merge_where_that_costs_nothing(damaged, change, told):
    with pytest.raises(TokenizerError, match=told):
        opened(damaged, change)


def unreachable(model):
    """zqx is made of zq and x, but text comes to z and qx."""
    last = ["".join(merge).replace(" ", "") for merge in model["merges"][-3:]]
    model["merges"][-3:] = [["q", "x"], ["z", "q"], ["zq", "x"]]
    model["vocab"] |= {new: model["vocab"].pop(old) for old, new in zip(last, ("qx", "zq", "zqx"), strict=True)}


def test_a_wrong_claim_that_only_a_proof_finds_is_refused_when_all_is_checked(folder, damaged, edit):
    assert opened(damaged, unreachable).encode("the") == Tokenizer.open(folder).encode("the")
    data = (damaged / "tokenizer.json").read_bytes()
    sealed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(damaged / "manifest.json", lambda m: m["files"].update({"tokenizer.json": sealed}))
    assert open_tokenizer(Bundle.open(damaged)) is not None
    assert open_tokenizer(Bundle.open(damaged, check_hashes=True)) is None
    assert "no text reaches token" in str(refusal(damaged))
