"""A text's perplexity: the loop of transformers' guide on its model and on the scratch network, and the runtime."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpt2_export
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gpt2_model import GPT2
from gpt2_runtime import Session, Tokenizer, perplexity, score_prompt
from gpt2_runtime.cli.command import main
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

torch.set_num_threads(1)  # these networks are too small to gain from a second thread

ATOL = 1e-4  # of a log-probability, so relative for a perplexity; counting each token once is 4e-4 off on the demo
TEXT = (Path(gpt2_export.__file__).parent / "verification" / "sonnets.txt").read_text(encoding="utf-8")

Loss = Callable[[torch.Tensor, torch.Tensor], float]
"""(input_ids [1, T], labels [1, T], -100 is ignored) -> the mean loss, NaN without labels."""


def by_transformers(network: GPT2LMHeadModel) -> Loss:
    @torch.no_grad()
    def loss(ids: torch.Tensor, labels: torch.Tensor) -> float:
        return float(network(ids, labels=labels).loss)

    return loss


def by_scratch(network: GPT2) -> Loss:
    @torch.no_grad()
    def loss(ids: torch.Tensor, labels: torch.Tensor) -> float:
        logits, _ = network(ids)
        return float(cross_entropy(logits[0, :-1], labels[0, 1:]))  # ignores -100

    return loss


def page(loss: Loss, ids: list[int], max_length: int, stride: int) -> float:
    """The loop of "Perplexity of fixed-length models" in transformers' documentation."""
    text = torch.tensor([ids])
    nll_sum, n_tokens, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        new = end - previous
        window_ids = text[:, begin:end]
        targets = window_ids.clone()
        targets[:, :-new] = -100
        counted = int((targets != -100).sum()) - 1
        nll_sum += loss(window_ids, targets) * counted
        n_tokens += counted
        previous = end
        if end == len(ids):
            break
    return math.exp(nll_sum / n_tokens)


def check(folder: Path, ids: list[int], window: int, stride: int) -> None:
    expected = page(by_transformers(GPT2LMHeadModel.from_pretrained(folder).eval()), ids, window, stride)
    scratch = page(by_scratch(GPT2.from_pretrained(folder)), ids, window, stride)
    assert scratch == pytest.approx(expected, rel=ATOL)
    for graph in ("serving", "portable"):
        session = Session.open(folder, threads=1, graph=graph)
        assert perplexity(session, ids, window=window, stride=stride).perplexity == pytest.approx(expected, rel=ATOL)


# Shorter than the window, equal, one token more; several strides, and one token more. Without overlap the guide's loop
# gives 0 x NaN for one token more: see below.
LENGTHS = (40, 80, 81, 160, 161)
STRIDES = (80, 40, 24, 8)


@pytest.mark.parametrize(
    ("length", "stride"), [(T, stride) for T in LENGTHS for stride in STRIDES if stride < 80 or T % 80 != 1]
)
def test_the_runtime_gives_the_guides_figure_on_a_random_model(length: int, stride: int, made: Any) -> None:
    ids = np.random.default_rng(length).integers(97, size=length).tolist()
    check(made("as published").folder, ids, 80, stride)


@pytest.mark.parametrize(("window", "stride"), [(256, 256), (256, 128), (100, 30)])
def test_the_runtime_gives_the_guides_figure_on_the_demo(window: int, stride: int, demo_folder: Path) -> None:
    check(demo_folder, Tokenizer.open(demo_folder).encode(TEXT)[:1001], window, stride)


def test_a_last_window_of_one_token_is_nan_in_the_guide_and_ignored_here(made: Any) -> None:
    folder = made("as published").folder
    ids = np.random.default_rng(0).integers(97, size=161).tolist()
    loss = by_transformers(GPT2LMHeadModel.from_pretrained(folder).eval())
    assert math.isnan(page(loss, ids, 80, 80))
    result = perplexity(Session.open(folder, threads=1), ids, stride=80)
    assert result.perplexity == pytest.approx(page(loss, ids[:-1], 80, 80), rel=ATOL)
    assert (result.tokens, result.scored_tokens) == (161, 158)


def test_every_tokens_log_probability_is_that_of_the_scratch_network(demo_folder: Path) -> None:
    ids = Tokenizer.open(demo_folder).encode(TEXT)[:256]
    with torch.no_grad():
        logits, _ = GPT2.from_pretrained(demo_folder)(torch.tensor([ids]))
    expected = logits[0, :-1].double().log_softmax(-1)  # [255, V]
    scores = score_prompt(Session.open(demo_folder, threads=1), ids, top=5)[1:]
    result = torch.tensor([token.logprob for token in scores], dtype=torch.float64)
    torch.testing.assert_close(result, expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0], atol=ATOL, rtol=0)
    likeliest = torch.tensor([[logprob for _, logprob in token.top_logprobs] for token in scores], dtype=torch.float64)
    torch.testing.assert_close(likeliest, expected.topk(5).values, atol=ATOL, rtol=0)


def test_the_command_reports_the_scratch_networks_figure(demo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    result = CliRunner().invoke(main, ["score", str(demo_folder), str(tmp_path / "text"), "--json"])
    answer = json.loads(result.stdout)
    ids = Tokenizer.open(demo_folder).encode(TEXT)
    assert (answer["tokens"], answer["window"], answer["stride"]) == (len(ids), 256, 128)
    expected = page(by_scratch(GPT2.from_pretrained(demo_folder)), ids, 256, 128)
    assert answer["perplexity"] == pytest.approx(expected, rel=ATOL)
