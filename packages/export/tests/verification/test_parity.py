"""The parity report says how far each backend is from the network, and too much is refused with the numbers."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gpt2_export.errors import VerificationError
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.graphs.export import Kind
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_export.verification import backends, parity, stress, truth
from gpt2_export.verification.metrics import greedy, kl
from gpt2_export.verification.parity import beyond, compare, greedy_figures
from gpt2_export.verification.sweep import Case, Ids, cases

V = 11  # of the hand-made backends


def case(name: str, mask: list[list[int]], past: int = 0) -> Case:
    return Case(name=name, input_ids=np.zeros_like(mask), attention_mask=np.array(mask), past=past)


def made_run(*logits: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.array(one, np.float32) for one in logits)


TEXT = case("text", [[1, 1]])
FLAT = [[[0.0, 0.0], [0.0, 0.0]]]  # (B, T, V) = (1, 2, 2)


def test_equal_runs_have_no_difference() -> None:
    run = made_run([[[1, 2], [4, 3]]])
    assert compare(run, run, (TEXT,)) == {
        "max_logit_difference": 0.0,
        "worst_case": "text",
        "mean_kl": 0.0,
        "max_kl": 0.0,
        "top1_agreement": 1.0,
    }


def test_the_largest_difference_is_reported_with_its_case() -> None:
    other = case("other", [[1, 1]])
    actual = made_run(FLAT, [[[0.0, 0.0], [0.0, -0.5]]])
    figures = compare(made_run(FLAT, FLAT), actual, (TEXT, other))
    assert (figures["max_logit_difference"], figures["worst_case"]) == (0.5, "other")


def test_only_positions_with_text_count_and_only_those_of_the_second_call() -> None:
    padded = case("padded", [[0, 1, 1], [1, 1, 0]], past=1)  # (B, P+T); the logits are those of the last two
    expected = np.zeros((2, 2, 2))
    actual = expected.copy()
    actual[1, 1] = 9.0  # padding
    assert compare(made_run(expected), made_run(actual), (padded,))["max_logit_difference"] == 0.0
    actual[0, 0, 1] = 0.25  # its mask's column 1
    assert compare(made_run(expected), made_run(actual), (padded,))["max_logit_difference"] == 0.25


def test_the_share_of_positions_with_the_same_likeliest_token_is_reported() -> None:
    four = case("four", [[1, 1, 1, 1]])
    expected, actual = [[[1, 0], [1, 0], [1, 0], [0, 1]]], [[[1, 0], [0, 1], [1, 0], [0, 1]]]
    assert compare(made_run(expected), made_run(actual), (four,))["top1_agreement"] == 0.75


def count_up(cases: Sequence[Case]) -> list[np.ndarray]:
    """An exact network: the next number is likeliest, by 2, and 0 is second, by 0.5."""
    actual = []
    for case in cases:
        logits = np.zeros((*case.input_ids.shape, V))
        np.put_along_axis(logits, (case.input_ids[..., None] + 1) % V, 2.0, axis=-1)
        logits[..., 0] += 0.5
        actual.append(logits[:, case.past :])
    return actual


def test_greedy_agreement_ends_at_the_first_other_token_but_later_ones_count_too() -> None:
    texts = {"same": (5, 6, 7, 8), "a tie": (5, 6, 0, 1), "wrong after it": (5, 6, 0, 9)}
    actual = greedy_figures(count_up, np.array([[3, 4]]), texts)
    assert actual == {
        "same": {"greedy_tokens": 4, "greedy_agreement": 4, "greedy_behind": 0.0},
        "a tie": {"greedy_tokens": 4, "greedy_agreement": 2, "greedy_behind": 1.5},
        "wrong after it": {"greedy_tokens": 4, "greedy_agreement": 2, "greedy_behind": 2.0},
    }


def test_a_nan_is_the_largest_difference() -> None:
    other = case("other", [[1, 1]])
    actual = made_run([[[9.0, 0.0], [0.0, 0.0]]], [[[0.0, float("nan")], [0.0, 0.0]]])
    figures = compare(made_run(FLAT, FLAT), actual, (TEXT, other))
    assert math.isnan(figures["max_logit_difference"])
    assert figures["worst_case"] == "other"


def figures(**changed: Any) -> dict[str, Any]:
    fine = {
        "max_logit_difference": 0.0,
        "worst_case": "text",
        "greedy_tokens": 64,
        "greedy_agreement": 64,
        "greedy_behind": 0.0,
    }
    return fine | changed


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({}, None),
        ({"max_logit_difference": 1e-4}, None),
        ({"max_logit_difference": 1.01e-4}, "logits differ by 0.000101 (text), limit 0.0001"),
        ({"max_logit_difference": float("nan")}, "logits differ by nan (text), limit 0.0001"),
        ({"max_logit_difference": float("inf")}, "logits differ by inf (text), limit 0.0001"),
        # a tie: each of the two logits may be off by the tolerance
        ({"greedy_agreement": 7, "greedy_behind": 2e-4}, None),
        (
            {"greedy_agreement": 7, "greedy_behind": 2.1e-4},
            "greedy tokens agree for 7 of 64, one is 0.00021 behind the likeliest, limit 0.0002",
        ),
        (
            {"greedy_agreement": 0, "greedy_behind": float("nan")},
            "greedy tokens agree for 0 of 64, one is nan behind the likeliest, limit 0.0002",
        ),
    ],
)
def test_figures_beyond_tolerance_are_reported_with_the_numbers(changed: dict[str, Any], complaint: str | None) -> None:
    assert beyond(figures(**changed), 1e-4) == ([complaint] if complaint else [])


def test_divergence_is_that_of_the_two_distributions() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    shifted = np.log(q) + 100.0  # a constant added to all logits changes nothing
    assert kl(np.log(p)[None], shifted[None]) == pytest.approx([expected])
    assert kl(np.log(p)[None], np.log(p)[None]) == [0.0]


def test_greedy_reads_each_token_once_at_its_position() -> None:
    calls: list[tuple[list[list[int]], int, list[list[int]], Any]] = []

    def count_up(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        calls.append((input_ids.tolist(), attention_mask.shape[1], position_ids.tolist(), cache))
        logits = np.zeros((1, input_ids.shape[1], V), np.float32)
        logits[0, -1, (input_ids[0, -1] + 1) % V] = 2.0
        logits[0, -1, 0] += 0.5
        return logits, (cache or 0) + input_ids.shape[1]

    assert greedy(count_up, np.array([[3, 4]]), 3) == ((5, 6, 7), (1.5, 1.5, 1.5))
    assert calls == [([[3, 4]], 2, [[0, 1]], None), ([[5]], 3, [[2]], 2), ([[6]], 4, [[3]], 3)]


Change = Callable[[np.ndarray], np.ndarray]


def exactly(input_ids: Ids, position_ids: Ids) -> np.ndarray:
    """Logits that depend on the token and its position."""
    return np.random.default_rng(0).normal(size=(V, V))[input_ids] * (1 + position_ids[..., None])


def backend(name: str, change: Change = lambda logits: logits) -> backends.Backend:
    """`exactly` in float32, changed by a mistake."""

    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        return change(exactly(input_ids, position_ids).astype(np.float32)), None

    return backends.Backend(name=name, open=lambda _: step)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"vocab_size": V, "n_positions": 9, "n_embd": 4, "n_layer": 1, "n_head": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"} | sizes))
    return tmp_path


def report_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *actual: backends.Backend, change: Change = lambda logits: logits
) -> dict[str, Any]:
    """`change` is applied to the exact logits."""

    def exact(cases: Sequence[Case]) -> list[np.ndarray]:
        return [change(exactly(case.input_ids, case.position_ids))[:, case.past :] for case in cases]

    monkeypatch.setattr(backends, "available", lambda _: actual)
    monkeypatch.setattr(truth, "load", lambda _: exact)
    monkeypatch.setattr(stress, "compare", lambda *_: {})  # these backends have no weights
    return parity.verify(folder)


def test_the_report_names_the_reference_the_shapes_and_every_backend(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    report = report_of(monkeypatch, folder, backend("torch"), backend("one"), backend("two"))
    assert report["reference"] == "torch in float64"
    assert report["sweep"] == [case.name for case in cases(vocab_size=V, n_positions=9)]
    assert list(report["backends"]) == ["torch", "one", "two"]
    assert report["backends"]["one"]["greedy_tokens"] == 6  # a prompt of 4, then until the context is full
    assert 0 < report["float32_error"] < 1e-5  # only rounding to float32
    assert report["float32_error"] == report["backends"]["torch"]["max_logit_difference"]
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(("largest", "tolerance"), [(0.5, 1e-4), (9.0, 1e-4), (10.0, 1e-4), (100.0, 1e-3), (1e6, 10.0)])
def test_tolerance_is_absolute_and_above_logits_of_10_relative(
    monkeypatch: pytest.MonkeyPatch, folder: Path, largest: float, tolerance: float
) -> None:
    def negative(logits: np.ndarray) -> np.ndarray:
        return np.zeros_like(logits) + np.linspace(-largest, 0, V, dtype=logits.dtype)

    report = report_of(monkeypatch, folder, backend("torch", negative), change=negative)
    assert (report["largest_logit"], report["tolerance"]) == pytest.approx((largest, tolerance))


def test_tolerance_grows_with_the_error_of_torchs_own_float32(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    rough, rougher, wrong = (
        backend(f"off by {off:g}", lambda logits, off=off: logits + off) for off in (1, 15.9, 16.1)
    )
    report = report_of(monkeypatch, folder, rough, rougher)
    assert report["tolerance"] == pytest.approx(16, abs=1e-4)
    with pytest.raises(VerificationError, match=r"off by 16\.1: logits differ by 16\.1 "):
        report_of(monkeypatch, folder, rough, wrong)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda logits: logits + 1e-3,
        lambda logits: np.where(np.arange(V) == 3, np.float32(np.nan), logits),
        lambda logits: np.full_like(logits, np.nan),
        lambda logits: np.full_like(logits, np.inf),
    ],
    ids=["off", "one nan", "all nan", "inf"],
)
def test_a_wrong_backend_is_refused_with_the_report(
    monkeypatch: pytest.MonkeyPatch, folder: Path, mistake: Change
) -> None:
    with pytest.raises(VerificationError, match=r"wrong: logits differ by (0\.001|nan|inf) \(.+\), limit ") as caught:
        report_of(monkeypatch, folder, backend("reference"), backend("fine"), backend("wrong", mistake))
    assert "fine" not in str(caught.value)
    assert caught.value.report["backends"]["fine"]["max_logit_difference"] < 1e-5
    assert caught.value.report["backends"].keys() == {"reference", "fine", "wrong"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # only the refusal is tested
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_network_that_overflows_is_refused_whatever_the_backends_return(
    monkeypatch: pytest.MonkeyPatch, folder: Path, value: float
) -> None:
    def overflow(logits: np.ndarray) -> np.ndarray:  # of one token, in batches: greedy decoding never sees it
        return np.where((np.arange(V) == 3) & (len(logits) == 3), np.float32(value), logits)

    with pytest.raises(VerificationError):
        report_of(monkeypatch, folder, backend("reference", overflow), backend("finite"))


def change_graph(path: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph)
    path.write_bytes(proto.SerializeToString())


def swapped_offsets(graph: onnx.GraphProto) -> None:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    one, other = tensors["transformer.h.0.ln_1.weight"], tensors["transformer.h.1.ln_1.weight"]
    (a,) = (entry for entry in one.external_data if entry.key == "offset")
    (b,) = (entry for entry in other.external_data if entry.key == "offset")
    a.value, b.value = b.value, a.value


def another_epsilon(graph: onnx.GraphProto) -> None:
    norm = next(node for node in graph.node if node.op_type.endswith("LayerNormalization"))
    (epsilon,) = (attribute for attribute in norm.attribute if attribute.name == "epsilon")
    epsilon.f = 1e-2


def exact_gelu(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Gelu":
            node.attribute[0].s = b"none"
        elif node.op_type == "FastGelu":
            node.op_type = "BiasGelu"


OPENED = {PORTABLE: backends.portable, SERVING: backends.serving}


@pytest.mark.parametrize("change", [swapped_offsets, another_epsilon, exact_gelu], ids=lambda change: change.__name__)
def test_a_graph_with_a_classic_mistake_is_refused_with_the_numbers(
    made_copy: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.GraphProto], None]
) -> None:
    # Only these two, with or without transformers: the graph is wrong.
    pair = [backends.Backend(name="torch", open=backends.scratch)]
    if kind in OPENED:
        pair += [backends.Backend(name="onnxruntime", open=OPENED[kind])]
    monkeypatch.setattr(backends, "available", lambda _: pair)
    parity.verify(made_copy)
    change_graph(made_copy / kind.file, change)
    message = r"onnxruntime: logits differ by [\d.e-]+ \(.+\), limit 0\.000\d+"
    if kind is EXPLAIN:
        message = r"the explain graph: logit differs by [\d.e-]+, limit 0\.000\d+"
    with pytest.raises(VerificationError, match=message):
        parity.verify(made_copy)


def test_the_network_itself_is_the_reference_and_onnxruntime_is_always_compared(made: Path) -> None:
    first, *others = backends.available(made)
    assert first.name.startswith("torch ")
    assert [backend.name for backend in others if backend.name.startswith("onnxruntime ")]
