"""Each precision of a folder: chosen by name, the most exact by default, and the same text however it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gpt2_runtime import GREEDY, Bundle, Session, TextGenerator, Token, generate
from gpt2_runtime.cli.command import main
from gpt2_runtime.diagnostics.bench import bench
from gpt2_runtime.diagnostics.roofline import weight_bytes
from gpt2_runtime.errors import BundleError
from gpt2_runtime.precisions import PRECISIONS

IDS = np.random.default_rng(0).integers(300, size=40)
OTHER = np.random.default_rng(1).integers(300, size=40)
Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]


@pytest.fixture(scope="module", params=PRECISIONS)
def opened(folder: Path, request: pytest.FixtureRequest) -> Session:
    return Session.open(folder, precision=request.param, threads=1)


def whole(session: Session) -> np.ndarray:
    """The logits of all of IDS, read at once, [T, V]."""
    return session.step([IDS], session.empty_cache(), len(IDS))[0][0]


def one_by_one(session: Session) -> np.ndarray:
    logits, cache = [], session.empty_cache()
    for id_ in IDS:
        scored, cache = session.step([[id_]], cache)
        logits.append(scored[0, 0])
    return np.array(logits)


def in_chunks(session: Session) -> np.ndarray:
    logits, cache = [], session.empty_cache()
    for start, stop in ((0, 16), (16, 32), (32, 40)):
        scored, cache = session.step([IDS[start:stop]], cache, stop - start)
        logits.append(scored[0])
    return np.concatenate(logits)


def beside_others(session: Session) -> np.ndarray:
    return session.step([OTHER, IDS, OTHER[:9] * 0], session.empty_cache(3), len(IDS))[0][1]


def beside_others_one_by_one(session: Session) -> np.ndarray:
    logits, cache = [], session.empty_cache(3)
    for ours, theirs in zip(IDS, OTHER, strict=True):
        scored, cache = session.step([[theirs], [ours], [0]], cache)
        logits.append(scored[1, 0])
    return np.array(logits)


def test_the_default_is_the_most_exact_one(folder: Path, damaged: Path, edit: Edit) -> None:
    assert Session.open(folder, threads=1).precision == "fp32"
    edit(damaged / "manifest.json", lambda m: [m["graphs"].pop(name) for name in ("fp32", "fp16")])
    assert Bundle.open(damaged).precision(None) == "int8"
    edit(damaged / "manifest.json", lambda m: m["graphs"].clear())
    with pytest.raises(BundleError, match="has no graph; add them with `gpt2-export onnx"):
        Session.open(damaged)


def test_an_absent_one_is_refused_with_those_that_are_there(damaged: Path, edit: Edit) -> None:
    edit(damaged / "manifest.json", lambda m: m["graphs"].pop("int4"))
    with pytest.raises(BundleError, match="has no int4 graph, only fp32, fp16, int8; choose one of these, or add"):
        Session.open(damaged, precision="int4")
    ran = CliRunner().invoke(main, ["generate", str(damaged), "the", "--precision", "int4"])
    assert ran.exit_code == 1
    assert ran.stderr.count("\n") == 1
    assert "has no int4 graph, only fp32, fp16, int8" in ran.stderr


@pytest.mark.parametrize(
    ("read", "same_as"),
    [(in_chunks, whole), (beside_others, whole), (beside_others_one_by_one, one_by_one)],
    ids=lambda read: read.__name__,
)
def test_the_bits_are_the_same_whatever_the_chunk_and_the_batch(
    opened: Session, read: Callable[[Session], np.ndarray], same_as: Callable[[Session], np.ndarray]
) -> None:
    """At the width of GPT-2, and in any pieces: `tests/test_promise.py`."""
    np.testing.assert_array_equal(read(opened), same_as(opened))


def test_the_text_is_the_same_read_at_once_and_one_by_one(opened: Session) -> None:
    """The bits are not: attention sums in another order, and that may round an activation to the next step."""
    np.testing.assert_array_equal(one_by_one(opened).argmax(-1), whole(opened).argmax(-1))


def test_each_is_further_from_float32_than_the_one_before(folder: Path, serving: Session) -> None:
    reference = whole(serving)
    lost = [np.abs(whole(Session.open(folder, precision=p, threads=1)) - reference).mean() for p in PRECISIONS]
    assert lost[0] == 0 < lost[1] < lost[2] < lost[3]


def test_keys_and_values_of_half_precision_take_half_the_memory(folder: Path) -> None:
    for precision in PRECISIONS:
        cache = Session.open(folder, precision=precision, threads=1).empty_cache()
        assert cache.buffers.array.dtype == (np.float16 if precision == "fp16" else np.float32)
    half = Session.open(folder, precision="fp16", threads=1)
    _, cache = half.step([IDS[:5]], half.empty_cache())
    copied, _ = half.step([IDS[5:6]], cache.copy())
    continued, _ = half.step([IDS[5:6]], cache)
    np.testing.assert_array_equal(copied, continued)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_blocks_are_packed_at_once_so_that_the_first_token_is_computed_as_the_last(
    folder: Path, precision: str
) -> None:
    session = Session.open(folder, precision=precision, threads=1, prepack=False)
    assert session.opened.engine.packed
    np.testing.assert_array_equal(whole(session), whole(Session.open(folder, precision=precision, threads=1)))


@pytest.mark.parametrize("graph", ["portable", "serving"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_every_graph_of_every_precision_generates(folder: Path, graph: Any, precision: str) -> None:
    sessions = [Session.open(folder, precision=precision, graph=kind, threads=1) for kind in (graph, "serving")]
    texts = [generate(s, [5, 6, 7], max_new_tokens=6, sampling=GREEDY, stop_token_ids=()) for s in sessions]
    ids, expected = ([event.id for event in events if isinstance(event, Token)] for events in texts)
    assert ids == expected
    assert len(ids) == 6


def test_commands_take_it_and_say_it(folder: Path) -> None:
    def run(*arguments: str) -> str:
        ran = CliRunner().invoke(main, [arguments[0], str(folder), *arguments[1:], "--precision", "int8"])
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    text = run("generate", "the", "--temperature", "0", "--max-new-tokens", "5")
    generator = TextGenerator.open(folder, precision="int8", threads=1)
    assert text.rstrip("\n") == generator.complete("the", max_new_tokens=5, sampling=GREEDY).text
    assert "int8 serving graph" in run("inspect")
    assert json.loads(run("inspect", "--json"))["precision"] == "int8"
    shown = CliRunner().invoke(main, ["inspect", str(folder)]).stdout
    assert "precisions  fp32 (0.2 MB), fp16 (0.1 MB), int8 (0.1 MB), int4 (0.0 MB)" in shown


def test_a_step_reads_the_precisions_own_bytes(folder: Path) -> None:
    bundle = Bundle.open(folder)
    found = {precision: weight_bytes(bundle, precision) for precision in PRECISIONS}
    V, C, L, T = 300, 32, 2, 64
    matrices, vectors = 12 * C * C * L + V * C, 13 * C * L + 2 * C
    assert found["fp32"] == 4 * (matrices + vectors)  # and not the T positions
    # The CPU multiplies by a float32 copy of what is stored in half precision.
    assert found["fp16"] == found["fp32"]
    scales = matrices // C  # a block is a row, but in the second matrix of the MLP, where 64 or 128 share a scale
    assert found["int8"] >= matrices + 4 * vectors
    assert found["int8"] - matrices - 4 * vectors <= 4 * scales + 8 * C
    assert found["int4"] < found["int8"] < found["fp32"] / 3
    assert bundle.files["model.safetensors"].bytes - found["fp32"] > 4 * T * C
    report = bench(folder, precision="int4", threads=1, contexts=[8], batches=[1], rounds=1)
    assert report.precision == "int4"
