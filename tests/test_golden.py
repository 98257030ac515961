"""Published numbers and texts, if you have a published checkpoint: `pytest tests --checkpoint DIR`."""

import copy
import json
from pathlib import Path
from typing import Any

import backends
import goldens
import pytest
import torch
import vocabularies
from checkpoints import network
from goldens import CHECKS, DOCUMENT, Golden
from gpt2_export import make
from gpt2_model import GPT2
from gpt2_runtime import Session
from gpt2_runtime.tokenizer.tokenizer import Tokenizer
from sweep import Step, greedy
from torch.nn import functional as F

GOLDENS = {entry["id"]: entry for entry in DOCUMENT["goldens"]}
TRAINING = [name for name, entry in GOLDENS.items() if entry["check"] == "training"]


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    path = request.config.getoption("--checkpoint")
    if path is None:
        pytest.skip("no published checkpoint; pass --checkpoint DIR")
    return Path(path)


@pytest.fixture(scope="module")
def known(checkpoint: Path) -> set[str]:
    """The ids of this checkpoint's goldens."""
    entries = goldens.of(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    assert entries, f"{checkpoint} does not have the sizes of {', '.join(DOCUMENT['models'])}"
    return {entry["id"] for entry in entries}


@pytest.fixture(scope="module")
def scratch(checkpoint: Path) -> Step:
    return backends.scratch(GPT2.from_pretrained(checkpoint))


@pytest.fixture(scope="module")
def session(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Step:
    """The runtime, on a folder made from the checkpoint."""
    folder = tmp_path_factory.mktemp("golden") / "folder"
    make(checkpoint, folder)
    return backends.runtime(Session.open(folder))


@pytest.mark.parametrize("backend", ["scratch", "session"])
@pytest.mark.parametrize("name", [name for name in GOLDENS if name not in TRAINING])
def test_a_published_value_is_reproduced(
    name: str, backend: str, checkpoint: Path, known: set[str], request: pytest.FixtureRequest
) -> None:
    if name not in known:
        pytest.skip(f"{name} is a value of {GOLDENS[name]['model']}, which {checkpoint} is not")
    goldens.check(GOLDENS[name], request.getfixturevalue(backend), Tokenizer.open(checkpoint))


@pytest.mark.parametrize("name", TRAINING)
def test_a_published_training_run_is_reproduced(name: str, checkpoint: Path, known: set[str]) -> None:
    if name not in known:
        pytest.skip(f"{name} is a value of {GOLDENS[name]['model']}, which {checkpoint} is not")
    goldens.check_training(GOLDENS[name], GPT2.from_pretrained(checkpoint))


@pytest.mark.parametrize(
    "entry", [entry for entry in GOLDENS.values() if {"text", "ids"} <= entry.keys()], ids=lambda entry: entry["id"]
)
def test_the_ids_of_a_golden_begin_with_its_text(entry: Golden, tokenizer_dir: Path) -> None:
    text = Tokenizer.open(tokenizer_dir).encode(entry["text"])
    assert entry["ids"][: len(text)] == text
    assert entry.get("first_new", len(entry["ids"])) == len(text)


# Values of a small network, as if they were published, to test that the checks can fail.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    network(vocab_size=vocabularies.write(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(small: Path) -> dict[str, Golden]:
    """A golden of each kind, from transformers."""
    reference = network(vocab_size=json.loads((small / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    step, tokenizer = backends.transformers(reference), Tokenizer.open(small)
    text = "To be, or not"
    ids = tokenizer.encode(text)
    rows = torch.from_numpy(goldens.logits(step, ids))
    top = rows[-1].topk(3)
    new = list(greedy(step, ids, 9))
    batch = torch.arange(13)
    losses = reference(batch[None, :-1].view(3, 4)).logits
    return {
        "last row": {
            "top_ids": top.indices.tolist(),
            "top_logits": top.values.tolist(),
            "largest": rows[-1].max().item(),
            "smallest": rows[-1].min().item(),
            "mean": rows[-1].mean().item(),
            "std": rows[-1].std(correction=0).item(),
        },
        "loss": {"loss": F.cross_entropy(rows[:-1], torch.tensor(ids[1:])).item()},
        "log-probabilities": {
            "first_new": 2,
            "log_probabilities": [rows[place - 1].log_softmax(0)[ids[place]].item() for place in (2, 3)],
        },
        "greedy ids": {"new_ids": new},
        "greedy text": {"text": text, "new_text": tokenizer.decode(new)},
        "training": {
            "rows": 3,
            "ids": batch.tolist(),
            "first_logit": losses[0, 0, 0].item(),
            "losses": [F.cross_entropy(losses.flatten(0, 1), batch[1:]).item()],
        },
    }


def tried(entry: Golden, kind: str, small: Path) -> None:
    """Runs a golden's check on the scratch network."""
    model = GPT2.from_pretrained(small)
    entry = {"check": kind, "atol": 1e-4} | entry
    if kind == "training":
        goldens.check_training(entry, model)
    else:
        goldens.check({"text": "To be, or not"} | entry, backends.scratch(model), Tokenizer.open(small))


KINDS = (*CHECKS, "training")


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_passes_a_correct_value(kind: str, published: dict[str, Golden], small: Path) -> None:
    tried(published[kind], kind, small)


def spoilt(value: Any) -> Any:
    """The value, with its last part slightly off."""
    if isinstance(value, list):
        return [*value[:-1], spoilt(value[-1])]
    return f"{value}?" if isinstance(value, str) else value + (1 if isinstance(value, int) else 1e-3)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *(("last row", key) for key in ("top_ids", "top_logits", "largest", "smallest", "mean", "std")),
        ("loss", "loss"),
        ("log-probabilities", "first_new"),
        ("log-probabilities", "log_probabilities"),
        ("greedy ids", "new_ids"),
        ("greedy text", "new_text"),
        ("training", "first_logit"),
        ("training", "losses"),
        ("training", "ids"),
    ],
)
def test_a_check_fails_a_wrong_value(kind: str, key: str, published: dict[str, Golden], small: Path) -> None:
    entry = copy.deepcopy(published[kind])
    entry[key] = spoilt(entry[key])
    with pytest.raises(AssertionError):
        tried(entry, kind, small)


@pytest.mark.parametrize("entry", GOLDENS.values(), ids=GOLDENS)
def test_every_golden_has_the_fields_of_its_check(entry: Golden, published: dict[str, Golden]) -> None:
    assert entry["model"] in DOCUMENT["models"]
    required = {"loss": {"loss"}, "last row": {"top_ids", "top_logits"}}.get(
        entry["check"], published[entry["check"]].keys()
    )
    assert required <= entry.keys()
    assert "ids" in entry or "text" in entry


def test_a_checkpoint_is_recognised_by_its_sizes() -> None:
    medium = {"n_layer": 24, "n_embd": 1024, "n_head": 16}
    assert {entry["id"] for entry in goldens.of(medium)} == {"G16"}
    assert goldens.of({"n_layer": 2, "n_embd": 32}) == []
