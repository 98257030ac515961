"""Whatever files a source has, every reader of the frozen folder gets transformers' ids, or it is refused by name.

Random sources: each file there or not, each field absent, null or one of several values.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import vocabularies
from gpt2_export.errors import FolderError
from gpt2_export.freeze import tokenizer_files
from gpt2_runtime import Tokenizer
from gpt2_runtime.errors import TokenizerError
from tokenizers import AddedToken, ByteLevelBPETokenizer, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

END = vocabularies.END_OF_TEXT
SIZE = 300  # rows of the model
SEEDS = 100

TEXTS = (
    "To be</s>or not  </s>  to be",
    "or  To be [PAD] , [PAD]  or [X] not<|endoftext|> To be",
    f" {END} \n </s>\t<user> hi <bot>yes <user><bot>",
    "cafe\u0301 caf\u00e9 \ufb01n 2024 de\u0301ja",
    "",
    " ",
)
WORDS = ("</s>", "[PAD]", "[X]", "<user>", "<bot>", "To be", END, "caf\u00e9", "cafe\u0301")


class Draws(random.Random):
    """Random decisions and choices."""

    def has(self, share: float = 0.5) -> bool:
        return self.random() < share

    def flags(self) -> dict[str, bool]:
        names = ("lstrip", "rstrip", "normalized", "special")
        return {"single_word": False} | {name: self.has() for name in names if self.has(0.7)}

    def token(self, typed: bool) -> Any:
        content = self.choice(WORDS)
        kinds: list[Any] = [content, content, content, None]
        flags = self.flags()
        kinds.append({"content": content, **flags} | ({"__type": "AddedToken"} if typed else {}))
        return self.choice(kinds)

    def words(self, most: int) -> list[str]:
        return self.sample(WORDS, self.randrange(most + 1))


def config_json(draws: Draws) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": "gpt2"}
    if draws.has(0.15):
        config["tokenizer_class"] = draws.choice(["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
    return config


def tokenizer_config(draws: Draws) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if draws.has(0.4):
        document["tokenizer_class"] = draws.choice(["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "image_token", "own_token"):
        if draws.has(0.2):
            document[name] = draws.token(typed=True)
    for name, values in {
        "add_prefix_space": (True, False),
        "add_bos_token": (True, False),
        "add_eos_token": (True, False),
        "split_special_tokens": (False, False, True),
        "clean_up_tokenization_spaces": (True, False),
        "model_max_length": (81,),
        "extra_special_tokens": ({}, [], None, {"audio_token": "<user>"}, ["<bot>", "<user>"]),
        "additional_special_tokens": ([], ["<user>"], ["<user>", "<bot>"], [draws.token(typed=True)], None),
    }.items():
        if draws.has(0.2):
            document[name] = draws.choice(values)
    if draws.has(0.2):
        ids = draws.sample(range(290, 293), draws.randrange(4))
        entries = {str(id_): {"content": word, **draws.flags()} for id_, word in zip(sorted(ids), WORDS, strict=False)}
        document["added_tokens_decoder"] = entries | ({"0": {"content": END, **draws.flags()}} if draws.has() else {})
    return document


def special_tokens_map(draws: Draws) -> dict[str, Any]:
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "own_token")
    document = {name: draws.token(typed=False) for name in names if draws.has(0.3)}
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if draws.has(0.3):
            document[name] = draws.words(2)
    return document


def tokenizer_json(draws: Draws, pair: Path) -> str:
    made = ByteLevelBPETokenizer(str(pair / "vocab.json"), str(pair / "merges.txt"), add_prefix_space=draws.has(0.3))
    whole = made._tokenizer
    if draws.has(0.25):
        form = getattr(normalizers, draws.choice(["NFC", "NFKC", "NFD", "NFKD", "Lowercase"]))()
        whole.normalizer = draws.choice([form, normalizers.Sequence([form, normalizers.NFC()])])
    if draws.has(0.15):
        whole.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    for word in draws.words(4) if draws.has(0.8) else ():
        whole.add_tokens([AddedToken(word, **draws.flags())])
    id_ = whole.token_to_id(END)
    template = processors.TemplateProcessing(single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, id_)])
    whole.post_processor = draws.choice([None, processors.ByteLevel(), processors.ByteLevel(), template])
    if draws.has(0.15):
        whole.enable_truncation(2)
    if draws.has(0.15):
        whole.enable_padding(length=9, pad_token=draws.choice(WORDS), pad_id=1)
    return str(whole.to_str())


def write_source(draws: Draws, source: Path) -> None:
    source.mkdir(parents=True)
    vocabularies.write(source)
    if draws.has(0.5):
        vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
        (source / "vocab.json").write_text(json.dumps(vocab | {"</s>": len(vocab)}), encoding="utf-8")
    documents: dict[str, Any] = {"config.json": config_json(draws)}
    if draws.has(0.7):
        documents["tokenizer_config.json"] = tokenizer_config(draws)
    if draws.has(0.4):
        documents["special_tokens_map.json"] = special_tokens_map(draws)
    if draws.has(0.3):
        first = len(json.loads((source / "vocab.json").read_text(encoding="utf-8")))
        words = [word for word in draws.words(3) if word not in ("</s>", END)]
        documents["added_tokens.json"] = {word: first + i for i, word in enumerate(words)}
    for name, document in documents.items():
        (source / name).write_text(json.dumps(document), encoding="utf-8")
    if draws.has(0.75):
        (source / "tokenizer.json").write_text(tokenizer_json(draws, source), encoding="utf-8")
        if draws.has():
            (source / "vocab.json").unlink()


def same_everywhere(source: Path, out: Path) -> bool:
    """Whether the folder was made, with the source's ids; False if the source was refused."""
    out.mkdir()
    config = json.loads((source / "config.json").read_text())
    sizes = {"vocab_size": SIZE, "n_positions": 81}
    try:
        made = tokenizer_files.copy(source, out, config | sizes)
    except FolderError:
        return False
    if made.document is None:
        assert made.warnings
        return False
    try:
        theirs = AutoTokenizer.from_pretrained(source)
    except (TypeError, ValueError):  # an unexpected kind of token
        return False
    (out / "config.json").write_text(json.dumps(config))
    after = AutoTokenizer.from_pretrained(out)
    library = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    unread = any("gpt2-runtime does not read" in warning for warning in made.warnings)
    if unread:
        with pytest.raises(TokenizerError):
            Tokenizer.open(out)
    ours = None if unread else Tokenizer.open(out)
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert after(text).input_ids == ids
        assert library.encode(text).ids == ids
        for skip in (False, True):
            assert after.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
            assert library.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        if ours is not None:
            assert ours.encode(text) == ids
            assert ours.decode(ids) == theirs.decode(ids)
    assert after.special_tokens_map == theirs.special_tokens_map
    assert set(after.all_special_ids) == set(theirs.all_special_ids)
    return True


@pytest.mark.parametrize("seeds", [range(SEEDS), pytest.param(range(SEEDS, 30 * SEEDS), marks=pytest.mark.nightly)])
def test_the_folder_has_the_sources_ids_whatever_files_it_has(tmp_path: Path, seeds: range) -> None:
    made = 0
    for seed in seeds:
        source, out = tmp_path / f"{seed}", tmp_path / f"{seed}-out"
        write_source(Draws(seed), source)
        try:
            made += same_everywhere(source, out)
        except Exception as error:
            error.add_note(f"seed {seed}: " + " ".join(sorted(path.name for path in source.iterdir())))
            raise
    assert made > len(seeds) / 3
