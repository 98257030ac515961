"""Rung 5: the runtime's streamed pieces of text, joined, are transformers' text of the same tokens."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import backends
import pytest
import vocabularies
from checkpoints import network
from gpt2_export import freeze_checkpoint
from gpt2_export.freeze import tokenizer_files as tokenizer
from gpt2_export.graphs.serving import SERVING
from gpt2_runtime import GREEDY, TextGenerator, Tokenizer
from sweep import greedy
from trace_cache import add_graphs
from transformers import AutoTokenizer, GPT2LMHeadModel, GPT2TokenizerFast

PROMPTS = ("To be", "  Zoë: 🙂\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}", "1603\n\n你好 <|endoftext|> or not", "🇫🇷")
Opened = tuple[TextGenerator, GPT2TokenizerFast]


def opened(place: Path, write_vocabulary: Callable[[Path], int]) -> Opened:
    """Opens the same made folder in the runtime and in transformers."""
    source, folder = place / "source", place / "folder"
    source.mkdir()
    vocab_size = write_vocabulary(source)
    end = vocab_size - 1 if vocab_size == 50257 else 0
    network(vocab_size=vocab_size, bos_token_id=end, eos_token_id=end).save_pretrained(source)
    freeze_checkpoint(source, folder)
    add_graphs(folder, [SERVING])
    return TextGenerator.open(folder, threads=1), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opened(tmp_path_factory.mktemp("small"), vocabularies.write)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Opened:
    def copy(source: Path) -> int:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(tokenizer_dir / name, source)
        return 50257

    return opened(tmp_path_factory.mktemp("published"), copy)


@pytest.fixture(scope="module")
def resaved(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    def save(source: Path) -> int:
        size = vocabularies.write(source)
        tokenizer = GPT2TokenizerFast.from_pretrained(source)
        for name in ("vocab.json", "merges.txt"):
            (source / name).unlink()
        tokenizer.save_pretrained(source)
        assert not (source / "merges.txt").exists()
        return size

    return opened(tmp_path_factory.mktemp("resaved"), save)


@pytest.fixture(params=["small", "resaved", "published"])
def both(request: pytest.FixtureRequest) -> Opened:
    """A small vocabulary, the same as saved by transformers today (only tokenizer.json), and GPT-2's."""
    opened: Opened = request.getfixturevalue(request.param)
    return opened


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_read_as_the_same_tokens(both: Opened, prompt: str) -> None:
    generator, tokenizer = both
    assert generator.complete(prompt, max_new_tokens=0).prompt_token_ids == tuple(tokenizer(prompt).input_ids)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_joined_pieces_are_the_whole_text(both: Opened, prompt: str, seed: int) -> None:
    generator, tokenizer = both
    stream = generator.stream(prompt, max_new_tokens=60, seed=seed, stop_token_ids=())
    pieces = list(stream)
    ids = list(stream.completion.token_ids)
    assert len(ids) == min(60, 81 - len(stream.completion.prompt_token_ids))
    assert "".join(pieces) == stream.completion.text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert all(pieces)


def test_the_texts_are_hard_ones(small: Opened) -> None:
    """Characters in several tokens, and bytes that are not a character: the cases a careless stream gets wrong."""
    generator, tokenizer = small
    ids = [id for seed in range(3) for id in generator.complete("🙂", max_new_tokens=60, seed=seed).token_ids]
    assert "\N{REPLACEMENT CHARACTER}" in tokenizer.decode(ids)
    prompt = generator.complete("🙂", max_new_tokens=0).prompt_token_ids
    assert any("\N{REPLACEMENT CHARACTER}" in tokenizer.decode([id]) for id in prompt)


def test_greedy_text_is_transformers(both: Opened) -> None:
    generator, tokenizer = both
    reference = GPT2LMHeadModel.from_pretrained(generator.session.bundle.folder).eval()
    ids = list(greedy(backends.transformers(reference), tokenizer("To be").input_ids, 40))
    completion = generator.complete("To be", max_new_tokens=40, sampling=GREEDY, stop_token_ids=())
    assert completion.text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


MAP, CONFIG, ADDED = "special_tokens_map.json", "tokenizer_config.json", "added_tokens.json"
LAST = 290  # the id of </s>, after those of the vocabulary
TYPED = {"__type": "AddedToken", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
PLAIN = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False}

# Files a source may have beside vocab.json and merges.txt.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "nothing": {},
    "a named token": {MAP: {"eos_token": "</s>"}},
    "a named token in both": {MAP: {"eos_token": "</s>"}, CONFIG: {"eos_token": "</s>", "pad_token": "</s>"}},
    "a named token with flags": {MAP: {"eos_token": PLAIN | {"content": "</s>"}}},
    "a typed token": {CONFIG: {"eos_token": TYPED | {"content": "</s>"}}},
    "named twice, with other flags": {CONFIG: {"sep_token": TYPED | {"content": "</s>"}, "pad_token": "</s>"}},
    "no named tokens": {CONFIG: {"bos_token": None, "eos_token": None, "unk_token": None}},
    "other names for the end": {CONFIG: dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")},
    "a name of its own": {CONFIG: {"image_token": "</s>"}, MAP: {"pad_token": "[PAD]", "own_token": "be"}},
    "a token without an id": {MAP: {"pad_token": "[PAD]"}},
    "a prefix": {CONFIG: {"add_prefix_space": True, "add_bos_token": False}},
    "a prefix and a token": {CONFIG: {"add_prefix_space": True, "pad_token": "</s>"}},
    "added words": {ADDED: {"[PAD]": LAST + 2, "To be": LAST + 1}},
    "added and named": {ADDED: {"[PAD]": LAST + 1}, MAP: {"pad_token": "[PAD]"}},
    "added and typed": {ADDED: {"[PAD]": LAST + 1}, CONFIG: {"pad_token": TYPED | {"content": "[PAD]"}}},
    "added and additional": {ADDED: {"[PAD]": LAST + 1}, MAP: {"additional_special_tokens": ["[PAD]"]}},
    "added and extra": {ADDED: {"[PAD]": LAST + 1}, CONFIG: {"additional_special_tokens": ["[PAD]"]}},
    "additional ones": {CONFIG: {"additional_special_tokens": ["[X]"]}, MAP: {"additional_special_tokens": ["[PAD]"]}},
    "additional and typed": {CONFIG: {"additional_special_tokens": [TYPED | {"content": "[X]"}]}},
    "a decoder": {
        ADDED: {"foxy": LAST + 1},
        MAP: {"eos_token": "[X]"},  # ignored beside a decoder
        CONFIG: {
            "pad_token": "[PAD]",
            "added_tokens_decoder": {
                "0": PLAIN | {"content": "<|endoftext|>", "special": True},
                str(LAST + 2): PLAIN | {"content": "[PAD]", "special": False},
                str(LAST + 1): PLAIN | {"content": "To be", "special": False, "lstrip": True, "normalized": True},
            },
        },
    },
}  # fmt: skip
SETTING_TEXTS = (
    "To be</s>or not  </s>  to be",
    "or  To be [PAD] , [PAD]  or [X] not<|endoftext|> To be",
    " <|endoftext|>  </s>",
    "",
)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A source with merges.txt and a vocab.json that contains </s>."""
    source = tmp_path / "pair"
    source.mkdir()
    assert vocabularies.write(source) == LAST
    vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8")) | {"</s>": LAST}
    (source / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (source / "config.json").write_text('{"model_type": "gpt2"}')
    return source


@pytest.mark.parametrize("files", SETTINGS.values(), ids=SETTINGS)
def test_settings_beside_a_pair_are_read_as_in_transformers(
    pair: Path, tmp_path: Path, files: dict[str, dict[str, Any]]
) -> None:
    for name, document in files.items():
        (pair / name).write_text(json.dumps(document))
    out = tmp_path / "out"
    out.mkdir()
    assert tokenizer.copy(pair, out, {"vocab_size": LAST + 4, "n_positions": 81}).warnings == ()
    shutil.copy(pair / "config.json", out)
    before, after, ours = AutoTokenizer.from_pretrained(pair), AutoTokenizer.from_pretrained(out), Tokenizer.open(out)
    for text in SETTING_TEXTS:
        ids = before(text).input_ids
        assert after(text).input_ids == ids
        assert ours.encode(text) == ids
        assert after.decode(ids, skip_special_tokens=True) == before.decode(ids, skip_special_tokens=True)
    specials = {token.content for token in before.added_tokens_decoder.values() if token.special}
    assert {token.content for token in ours.vocabulary.added if token.special} == specials
