"""Rung 3: the runtime's session computes the same as its graph in plain onnxruntime, on both graphs, packed and not."""

from collections.abc import Callable
from typing import Any

import backends
import pytest
from checkpoints import GRAPHS
from gpt2_runtime import Session
from gpt2_runtime.engine import packed_session
from sweep import Step, assert_same_logits
from tolerances import atol

READERS = {"in one go": backends.runtime, "by detours": backends.restless}


def check(session: Session, reader: Callable[[Session], Step]) -> None:
    """This rung's check. A padded case has rows of different lengths, which the portable graph cannot read."""
    assert_same_logits(
        backends.below(session),
        reader(session),
        vocab_size=session.bundle.architecture.vocab_size,
        n_positions=session.bundle.architecture.n_positions,
        atol=atol("session", "onnxruntime cpu", "float32"),
        padded=session.graph == "serving",
    )


@pytest.mark.parametrize("variant", GRAPHS)
def test_unpacked_weights_give_the_same_logits(
    variant: str, made: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_session, "UNPACKED_TOKENS", 10**9)
    session = Session.open(made(variant).folder, threads=1, graph="serving", prepack=False)
    check(session, backends.runtime)
    assert not session.opened.engine.packed


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("graph", ["serving", "portable"])
@pytest.mark.parametrize("variant", GRAPHS)
def test_every_config_agrees_on_every_shape(variant: str, graph: str, reader: str, made: Callable[[str], Any]) -> None:
    check(Session.open(made(variant).folder, threads=1, graph=graph), READERS[reader])


@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_reordered_rows_agree_on_every_shape(graph: str, made: Callable[[str], Any]) -> None:
    check(Session.open(made("as published").folder, threads=1, graph=graph), backends.shuffled)


def test_an_unsupported_head_size_is_read_on_the_portable_graph(made: Callable[[str], Any]) -> None:
    session = Session.open(made("heads of one").folder, threads=1)
    assert session.graph == "portable"
    check(session, backends.runtime)
