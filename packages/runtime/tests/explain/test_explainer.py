"""Explanations match what the model computes, by an oracle in numpy; bad input is refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Session, TextGenerator, generate
from gpt2_runtime.errors import (
    BundleError,
    EmptyPromptError,
    GraphError,
    LogitsError,
    PromptError,
    PromptTooLongError,
    SettingError,
    TokenIdError,
    TokenizerError,
)
from gpt2_runtime.explain.explainer import Explainer, Explanation, report
from gpt2_runtime.graphs.graph_signature import Signature, TensorSpec

IDS = [5, 6, 7, 200, 7, 7, 0, 299, 31]


@pytest.fixture(scope="module")
def explainer(folder: Path) -> Explainer:
    return Explainer.open(folder, threads=1)


@pytest.fixture(scope="module")
def explanation(explainer: Explainer) -> Explanation:
    return explainer.explain(IDS, top=6)


@pytest.fixture
def log_probs(oracle) -> np.ndarray:
    """[T, V]: the log-probability of every token after each of IDS."""
    logits = oracle(IDS)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_each_token_has_its_probability_and_rank(explanation, log_probs):
    expected = [row[token] for row, token in zip(log_probs[:-1], IDS[1:], strict=True)]
    assert np.isnan(explanation.log_probs[0])
    np.testing.assert_allclose(explanation.log_probs[1:], expected, rtol=0, atol=1e-4)
    ranks = [list(np.argsort(-row)).index(token) + 1 for row, token in zip(log_probs[:-1], IDS[1:], strict=True)]
    assert explanation.ranks.tolist() == [0, *ranks]
    assert explanation.perplexity == pytest.approx(np.exp(-np.mean(expected)), rel=1e-4)


def test_the_last_layers_predictions_are_the_models(explanation, log_probs):
    expected = np.sort(log_probs, axis=-1)[:, ::-1][:, :6]
    np.testing.assert_allclose(explanation.lens_log_probs[-1], expected, rtol=0, atol=1e-4)
    predicted = np.take_along_axis(log_probs, explanation.lens_ids[-1], axis=-1)
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(explanation.lens_next_log_probs[-1, :-1], explanation.log_probs[1:])
    assert np.isnan(explanation.lens_next_log_probs[:, -1]).all()


def test_each_layer_and_the_embeddings_have_predictions(explanation):
    assert explanation.lens_ids.shape == explanation.lens_log_probs.shape == (3, 9, 6)
    assert (np.diff(explanation.lens_log_probs, axis=-1) <= 0).all()
    assert len({tuple(layer.ravel()) for layer in explanation.lens_ids}) == 3


def test_attention_adds_up_to_one_and_never_looks_ahead(explanation):
    assert explanation.attentions.shape == (2, 4, 9, 9)
    np.testing.assert_allclose(explanation.attentions.sum(axis=-1), 1, rtol=0, atol=1e-6)
    assert not explanation.attentions[..., *np.triu_indices(9, 1)].any()


def test_text_is_explained_as_its_tokens(explainer):
    text = "The dog's 🙂"
    explained = explainer.explain(text)
    assert explained.token_ids == tuple(explainer.tokenizer.encode(text))
    np.testing.assert_array_equal(explained.attentions, explainer.explain(explained.token_ids).attentions)


def test_generated_tokens_are_greedy_and_explained_too(explainer, folder):
    explained = explainer.explain(IDS, generate=5)
    events = generate(Session.open(folder, threads=1), IDS, max_new_tokens=5, sampling=GREEDY)
    new = [event.id for event in events if hasattr(event, "id")]
    assert explained.token_ids == (*IDS, *new)
    assert explained.prompt_tokens == len(IDS)
    assert len(new) > 1
    assert set(explained.ranks[len(IDS) :].tolist()) == {1}


def test_generation_runs_on_the_same_provider(folder, monkeypatch):
    opened = []
    real = TextGenerator.open

    def spied(*arguments, **settings):
        opened.append(settings)
        return real(*arguments, **settings)

    monkeypatch.setattr(TextGenerator, "open", spied)
    Explainer.open(folder, threads=1).explain([5, 6], generate=1)
    assert (opened[0]["provider"], opened[0]["threads"]) == ("cpu", 1)


def test_a_single_token_can_be_explained(explainer):
    explained = explainer.explain([5])
    assert (explained.perplexity, explained.ranks.tolist(), explained.attentions.ravel().tolist()) == (
        None,
        [0],
        [1.0] * 8,
    )


def test_truncation_keeps_the_last_tokens_and_leaves_room_for_new_ones(explainer):
    long = [number % 299 for number in range(70)]  # the model reads 64
    with pytest.raises(PromptTooLongError, match="prompt has 70 tokens, the limit here is 64; shorten it,"):
        explainer.explain(long)
    assert explainer.explain(long, overflow="truncate").token_ids == tuple(long[-64:])
    with pytest.raises(PromptTooLongError, match="prompt has 64 tokens, the limit here is 54"):
        explainer.explain(long[:64], generate=10)
    explained = explainer.explain(long, generate=10, overflow="truncate")
    assert explained.token_ids[: explained.prompt_tokens] == tuple(long[-54:])


def test_at_most_256_tokens_are_explained_for_any_model(explainer):
    wide = replace(explainer.bundle, architecture=replace(explainer.bundle.architecture, n_positions=1024))
    with pytest.raises(PromptTooLongError, match="prompt has 257 tokens, the limit here is 256"):
        replace(explainer, bundle=wide).explain([1] * 257)


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "message"),
    [
        ([], {}, EmptyPromptError, "prompt has 0 tokens, must have at least 1"),
        ("", {}, EmptyPromptError, "prompt has 0 tokens"),
        ([300], {}, TokenIdError, "token id is 300, must be an integer from 0 to 299"),
        ([1, -1], {}, TokenIdError, "token id is -1"),
        ([True], {}, TokenIdError, "token id is True"),
        (None, {}, PromptError, "prompt_ids is None, must be a list of token ids"),
        ([1.5], {}, TokenIdError, r"token id is 1\.5"),
        ([1], {"top": 0}, SettingError, "top is 0, must be an integer from 1 to 50"),
        ([1], {"top": 51}, SettingError, "top is 51, must be an integer from 1 to 50"),
        ([1], {"top": 2.0}, SettingError, r"top is 2\.0"),
        ([1], {"generate": -1}, SettingError, "generate is -1, must be an integer from 0 to 63"),
        ([1], {"generate": 64}, SettingError, "generate is 64, must be an integer from 0 to 63"),
        ([1], {"overflow": "cut"}, SettingError, "overflow is 'cut', must be 'error' or 'truncate'"),
    ],
)
def test_bad_input_is_refused(explainer, prompt, settings, error, message):
    with pytest.raises(error, match=message):
        explainer.explain(prompt, **settings)


def test_text_needs_a_tokenizer(explainer):
    bare = replace(explainer, tokenizer=None)
    with pytest.raises(TokenizerError, match=r"lists no tokenizer files; pass token ids \(--prompt-ids 464,3290\)"):
        bare.explain("The dog")
    assert report(bare.explain([5, 6]))["tokens"][0]["token"] is None


def test_a_folder_without_an_explaining_graph_is_refused_with_a_remedy(damaged, edit):
    edit(damaged / "manifest.json", lambda manifest: manifest["graphs"]["fp32"].pop("explaining"))
    with pytest.raises(BundleError, match=r"has no explaining graph; add it with `gpt2-export onnx .*`, then"):
        Explainer.open(damaged)


def test_another_graph_in_its_place_is_refused(damaged, edit):
    edit(damaged / "manifest.json", lambda m: m["graphs"]["fp32"].update(explaining="model.onnx"))
    with pytest.raises(
        GraphError, match=r"model\.onnx has operators 'And', .*, which no fp32 explaining graph has; export the folder"
    ):
        Explainer.open(damaged)


def test_a_graph_with_another_number_of_heads_is_refused(explainer):
    sizes = explainer.bundle.architecture
    actual, expected = Signature.explaining(replace(sizes, n_head=8)), Signature.explaining(sizes)
    with pytest.raises(GraphError, match=r"g: output attentions\.0 is .*8, .*config\.json requires .*4, "):
        actual.check("g", expected, "explaining")
    assert TensorSpec(name="top_k", type="tensor(int64)", shape=()) in expected.inputs


def test_nan_is_refused(explainer, damaged, edit):
    path = damaged / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-400:] = np.full(100, np.nan, "<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(LogitsError, match="computed NaN or infinity; check the folder with check_hashes=True"):
        Explainer.open(damaged, threads=1).explain(list(range(60)))


def test_the_report_is_json_with_the_same_values(explanation):
    explained = json.loads(json.dumps(report(explanation), allow_nan=False))
    assert [token["id"] for token in explained["tokens"]] == IDS
    assert explained["tokens"][0]["logprob"] is None
    assert explained["tokens"][0]["top_logprobs"] == []
    token = explained["tokens"][3]
    assert token["top_logprobs"] == explained["tokens"][2]["layers"][-1]["top_logprobs"]
    assert (token["rank"], token["token"]) == (explanation.ranks[3], explanation.tokenizer.decode([200]))
    guesses = token["layers"][2]["top_logprobs"]
    assert [guess["id"] for guess in guesses] == explanation.lens_ids[2, 3].tolist()
    assert token["layers"][2]["next_logprob"] == explained["tokens"][4]["logprob"]
    assert explained["tokens"][-1]["layers"][0]["next_logprob"] is None
