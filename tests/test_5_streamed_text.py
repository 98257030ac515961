"""Rung 5: the pieces of text that the runtime streams are, joined, what transformers makes of the same tokens."""

import shutil
from collections.abc import Callable
from pathlib import Path

import backends
import pytest
import vocabularies
from checkpoints import network
from gpt2_export import freeze_only
from gpt2_export.serving import SERVING
from gpt2_runtime import GREEDY, TextGenerator
from sweep import greedy
from traces import add_graphs
from transformers import AutoTokenizer, GPT2LMHeadModel, GPT2TokenizerFast

PROMPTS = ("To be", "  Zoë: 🙂\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}", "1603\n\n你好 <|endoftext|> or not", "🇫🇷")
Opened = tuple[TextGenerator, GPT2TokenizerFast]


def opened(place: Path, write_vocabulary: Callable[[Path], int]) -> Opened:
    """The same made folder in the runtime and in transformers."""
    source, folder = place / "source", place / "folder"
    source.mkdir()
    vocab_size = write_vocabulary(source)
    end = vocab_size - 1 if vocab_size == 50257 else 0
    network(vocab_size=vocab_size, bos_token_id=end, eos_token_id=end).save_pretrained(source)
    freeze_only(source, folder)
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
    """A vocabulary of its own, the same as transformers saves it today (tokenizer.json alone), and GPT-2's."""
    found: Opened = request.getfixturevalue(request.param)
    return found


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
    """Characters in several tokens, and bytes that are no character: what a careless stream gets wrong."""
    generator, tokenizer = small
    ids = [id for seed in range(3) for id in generator.complete("🙂", max_new_tokens=60, seed=seed).token_ids]
    assert "\N{REPLACEMENT CHARACTER}" in tokenizer.decode(ids)
    prompt = generator.complete("🙂", max_new_tokens=0).prompt_token_ids
    assert any("\N{REPLACEMENT CHARACTER}" in tokenizer.decode([id]) for id in prompt)


def test_greedy_text_is_what_transformers_writes(both: Opened) -> None:
    generator, tokenizer = both
    reference = GPT2LMHeadModel.from_pretrained(generator.session.bundle.folder).eval()
    ids = list(greedy(backends.transformers(reference), tokenizer("To be").input_ids, 40))
    completion = generator.complete("To be", max_new_tokens=40, sampling=GREEDY, stop_token_ids=())
    assert completion.text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
