"""The quality gate: the loss is measured correctly, and beyond the limit nothing is written and the error helps."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpt2_export import quantize
from gpt2_export.errors import PrecisionError, QualityError
from gpt2_export.folder import manifest
from gpt2_export.precision.precision import INT4, INT8
from gpt2_export.verification import backends, quality
from gpt2_export.verification.eval_texts import MOST_TOKENS, OWN, Text, drawn, texts
from gpt2_export.verification.fp16_range import largest, stress_inputs
from gpt2_model import GPT2, GPT2Config

IDS = np.random.default_rng(0).integers(300, size=60)


def fixed(table: np.ndarray) -> backends.Step:
    """A model whose logits depend only on the last token: a row of `table`."""

    def step(ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Any) -> tuple[np.ndarray, Any]:
        return table[ids], cache

    return step


CONFIG = GPT2Config(vocab_size=300, n_positions=24, n_embd=16, n_layer=2, n_head=2)


def test_figures_are_the_definitions() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 300)).astype(np.float32)
    b = a + rng.normal(size=(300, 300)).astype(np.float32) / 3
    figures = quality.measured(fixed(a), fixed(b), Text(name="x", ids=IDS), CONFIG)
    log_p, log_q = (torch.from_numpy(t).double().log_softmax(-1).numpy() for t in (a, b))
    windows = [IDS[:24], IDS[24:48], IDS[48:]]
    before, after = (-np.mean([table[pair] for ids in windows for pair in pairwise(ids)]) for table in (log_p, log_q))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)[IDS]
    assert figures["tokens"] == 60
    assert figures["perplexity_fp32"] == pytest.approx(np.exp(before))
    assert figures["perplexity"] == pytest.approx(np.exp(after))
    assert figures["ppl_increase"] == pytest.approx((np.exp(after - before) - 1) * 100)
    assert figures["mean_kl"] == pytest.approx(divergence.mean())
    assert figures["max_kl"] == pytest.approx(divergence.max())
    assert figures["top1_agreement"] == pytest.approx((a.argmax(-1) == b.argmax(-1))[IDS].mean())


def test_on_its_own_text_the_increase_is_the_expected_one_and_never_negative() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 300)).astype(np.float32)
    b = a + rng.normal(size=(300, 300)).astype(np.float32) / 100
    figures = quality.measured(fixed(a), fixed(b), Text(name="x", ids=IDS, own=True), CONFIG)
    assert figures["ppl_increase"] == pytest.approx(np.expm1(figures["mean_kl"]) * 100)
    assert figures["ppl_increase"] > 0


def test_greedy_text_is_the_same_up_to_the_first_other_token() -> None:
    chain = np.zeros((300, 300), np.float32)
    chain[np.arange(300), (np.arange(300) + 1) % 300] = 5  # each token is followed by the next
    other = chain.copy()
    start = int(IDS[11])  # the last of the prompt, which is half the context
    other[(start + 3) % 300] = 0
    figures = quality.measured(fixed(chain), fixed(other), Text(name="x", ids=IDS), CONFIG)
    assert (figures["greedy_agreement"], figures["greedy_tokens"]) == (3, 13)


def test_the_models_own_text_is_sampled_from_its_own_distribution() -> None:
    table = np.full((4, 4), -np.inf, np.float32)
    table[np.arange(4), (np.arange(4) + 1) % 4] = np.log(0.75)
    table[np.arange(4), (np.arange(4) + 2) % 4] = np.log(0.25)
    ids = drawn(fixed(table), 4, 2000)
    steps = (ids[1:] - ids[:-1]) % 4
    assert set(steps) == {1, 2}
    assert (steps == 1).mean() == pytest.approx(0.75, abs=0.03)
    assert drawn(fixed(table), 4, 2000).tolist() == ids.tolist()


def test_texts_are_the_models_own_and_the_sonnets_or_the_users(made: Path, tmp_path: Path) -> None:
    reference, sizes = fixed(np.zeros((300, 300), np.float32)), {"vocab_size": 300, "n_positions": 24}
    figures = texts(made, [], reference, **sizes)
    assert [(text.name, text.own, len(text.ids)) for text in figures] == [
        (OWN, True, 24),
        ("sonnets.txt", False, MOST_TOKENS),
    ]
    mine = tmp_path / "mine.txt"
    mine.write_text("the quick brown fox", encoding="utf-8")
    assert [text.name for text in texts(made, [mine], reference, **sizes)] == [OWN, "mine.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not UTF-8 at byte 0"),
        (b"", "has 0 tokens; it must have at least 2"),
        (None, "cannot be read"),
    ],
)
def test_a_text_that_cannot_be_measured_on_is_refused(
    made: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    reference = fixed(np.zeros((300, 300), np.float32))
    with pytest.raises(PrecisionError, match=f"mine.txt {message}"):
        texts(made, [file], reference, vocab_size=300, n_positions=24)


def test_the_manifest_has_the_figures_of_every_graph_and_text(quantized: Path) -> None:
    document = manifest.read(quantized)
    assert manifest.differences(quantized, document) == []
    assert list(document.quality) == list(document.weights)[1:] == ["fp16", "int8", "int4"]
    for precision, report in document.quality.items():
        assert list(report["graphs"]) == ["portable", "serving"] == list(document.graphs[precision])
        for figures in report["graphs"].values():
            assert list(figures) == [OWN, "sonnets.txt"]
    losses = [document.quality[name]["graphs"]["serving"][OWN]["mean_kl"] for name in ("fp16", "int8", "int4")]
    assert 0 < losses[0] < losses[1] / 10 < losses[2] / 100
    assert document.quality["fp16"]["largest_activation"]["size"] > 1


@pytest.mark.parametrize("limit", [0, 1e-9])
def test_a_limit_of_zero_refuses_int4_and_leaves_the_folder_as_it_was(made_copy: Path, limit: float) -> None:
    before = {file.name: file.read_bytes() for file in made_copy.iterdir()}
    with pytest.raises(QualityError, match=r"int4 raises perplexity by .* %; name the layers") as refused:
        quantize(made_copy, ["int4"], max_ppl_increase=limit)
    assert {file.name: file.read_bytes() for file in made_copy.iterdir()} == before
    table = refused.value.report["sensitivity"]
    assert len(table) == 4 * 2 + 1
    assert list(table.values()) == sorted(table.values(), reverse=True)
    assert min(table.values()) > 0


def test_kept_matrices_are_not_listed_as_losing_most(made_copy: Path) -> None:
    with pytest.raises(QualityError) as refused:
        quantize(made_copy, ["int4"], max_ppl_increase=0, keep=["h.0", "wte"])
    losses = refused.value.report["sensitivity"]
    assert len(losses) == 4
    assert all(name.startswith("h.1.") for name in losses)


def test_kept_matrices_lose_nothing(made_copy: Path) -> None:
    worst = next(iter(quality.sensitivity(made_copy, INT4, IDS[:24])))
    document = quantize(made_copy, ["int4"], max_ppl_increase=1000, keep=[worst])
    plain = quantize(made_copy, ["int4"], max_ppl_increase=1000)  # once more: it is made again
    lost = [d.quality["int4"]["graphs"]["serving"][OWN]["mean_kl"] for d in (document, plain)]
    assert lost[0] < lost[1]
    assert document.quality["int4"]["kept"] == [worst]
    assert document.files["model_q4.safetensors"].bytes > plain.files["model_q4.safetensors"].bytes


def test_not_a_number_is_beyond_every_limit() -> None:
    report = {"graphs": {"serving": {"a": {"ppl_increase": 3.0}, "b": {"ppl_increase": float("nan")}}}}
    assert quality.worst(report)[1] == "b"


def test_the_largest_activation_is_located(made: Path, model: GPT2, tmp_path: Path) -> None:
    layer, size = largest(made, [IDS[:24]])
    assert layer.startswith("h.")
    assert 1 < size < 100
    assert len(stress_inputs(model)) == 3
    norms = model.wte.weight.norm(dim=1)
    assert stress_inputs(model)[1][0] == int(norms.argmax())


def test_float16_is_refused_where_an_activation_would_not_fit(
    make_checkpoint: Any, make_model: Any, tmp_path: Path
) -> None:
    from gpt2_export import make

    model = make_model()
    with torch.no_grad():
        model.h[0].mlp.c_fc.bias[2] = 3e5  # still in float32's range after the product
    out = tmp_path / "out"
    with pytest.raises(PrecisionError, match=r"fp16: h\.0\.mlp\.c_fc reads or makes 3e\+05, float16 ends at 65504"):
        make(make_checkpoint(model=model), out, precision=["fp16"])
    assert list(tmp_path.iterdir()) == []


def test_int8_is_within_its_limit_on_the_wild_network(quantized: Path) -> None:
    report = json.loads((quantized / "manifest.json").read_text())["quality"]["int8"]
    assert quality.worst(report)[2] < INT8.max_ppl_increase * 10
