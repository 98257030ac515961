"""Compares the frozen tokenizer with its source's: the same ids and the same decoded text, on hard texts."""

import codecs
import importlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt2_model.checkpoint import read_json
from tokenizers import Tokenizer

from gpt2_export.errors import FolderError, VerificationError
from gpt2_export.folder.reports import TokenizerReport
from gpt2_export.freeze import merges, tokenizer_files
from gpt2_export.freeze.tokenizer_files import Made
from gpt2_export.freeze.tokenizer_settings import NAMES, TOKENIZER, TOKENIZER_CONFIG

HARD_TEXTS = Path(__file__).parent / "hard_texts.json"
OLDEST = 5  # transformers' oldest version with this behaviour: before, GPT2Tokenizer used all of tokenizer.json
MOST_TOKENS = 100  # added tokens tested, each in texts of its own
FRAMES = ("{0}", "a{0}b", " {0} ", "{0}{0}", "x \t{0}\n y", "To be {0}, or {0}not")

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A tokenizer as opened by one library."""

    name: str
    encode: Encode
    decode: Decode


def compare(source: Path, folder: Path) -> TokenizerReport | None:
    """Compares the source's tokenizer with the folder's, in tokenizers and, if it is installed, in transformers.

    Args:
        source: the checkpoint's folder.
        folder: the frozen one, with its config.json.

    Returns:
        the manifest's entry: the references with their versions and the number of texts; None if the folder's tokenizer
        is of another kind or absent.

    Raises:
        VerificationError: the ids of a text, or the text of ids, differ.
        FolderError: transformers cannot open one of them.
    """
    config = read_json(folder / "config.json")
    made = tokenizer_files.put_together(source, config)
    if made.document is None:
        return None
    texts = list(_texts(made.document))
    references = []
    for reference, frozen in _pairs(source, folder, made, config):
        _hold(texts, reference, frozen)
        references.append(reference.name)
    return {
        "references": references,
        "texts": len(texts),
        "outcome": "same ids, same text",
        "merges_as_trained": merges.as_trained(made.document),
    }


def _texts(document: Mapping[str, Any]) -> Iterator[str]:
    yield from json.loads(HARD_TEXTS.read_text(encoding="utf-8"))
    for token in (document.get("added_tokens") or [])[:MOST_TOKENS]:
        yield from (frame.format(token["content"]) for frame in FRAMES)


def _hold(texts: Sequence[str], reference: Opened, frozen: Opened) -> None:
    for text in texts:
        expected, actual = reference.encode(text), frozen.encode(text)
        summary = f"the tokenizer differs from the source's in {reference.name}"
        if actual != expected:
            message = f"{summary}: {text!r} has ids {actual}, in the source {expected}"
            raise VerificationError(message, {"text": text, "ids": actual, "expected": expected})
        if frozen.decode(expected) != reference.decode(expected):
            message = (
                f"{summary}: {expected} are {frozen.decode(expected)!r}, in the source {reference.decode(expected)!r}"
            )
            raise VerificationError(message, {"text": text, "ids": actual, "expected": expected})


def _pairs(source: Path, folder: Path, made: Made, config: Mapping[str, Any]) -> Iterator[tuple[Opened, Opened]]:
    """Each reference, paired with the folder's tokenizer in the same library."""
    before = Tokenizer.from_str(json.dumps(made.document))
    yield _library(before), _library(Tokenizer.from_file(str(folder / TOKENIZER)))
    if importlib.util.find_spec("transformers") and int(version("transformers").split(".")[0]) >= OLDEST:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer-") as place, _quiet():
            _write_plain(source, Path(place), made, config)
            yield _transformers(Path(place), source), _transformers(folder, folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library's warnings about long texts and ignored fields."""
    logging: Any = importlib.import_module("transformers").logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _library(opened: Tokenizer) -> Opened:
    return Opened(
        name=f"tokenizers {version('tokenizers')}",
        encode=lambda text: list(opened.encode(text).ids),
        decode=lambda ids: str(opened.decode(ids, skip_special_tokens=False)),
    )


def _transformers(folder: Path, shown_as: Path) -> Opened:
    library: Any = importlib.import_module("transformers")
    try:
        opened = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # its many classes may raise anything
        reason = " ".join(str(error).split())
        raise FolderError(
            f"transformers cannot open the tokenizer of {shown_as}: {reason}; correct its files"
        ) from error
    return Opened(
        name=f"transformers {version('transformers')}",
        encode=lambda text: list(opened(text, verbose=False).input_ids),
        decode=lambda ids: str(opened.decode(ids)),
    )


def _write_plain(source: Path, place: Path, made: Made, config: Mapping[str, Any]) -> None:
    """Writes only the source's tokenizer, without byte order marks and without an end of text that was left out."""
    for name in tokenizer_files.FILES:
        if (source / name).exists():
            (place / name).write_bytes((source / name).read_bytes().removeprefix(codecs.BOM_UTF8))
    kind = config.get("tokenizer_class")
    _write(place / "config.json", {"model_type": "gpt2"} | ({"tokenizer_class": kind} if kind else {}))
    settings = read_json(place / TOKENIZER_CONFIG) if (place / TOKENIZER_CONFIG).exists() else {}
    absent = {name: None for name in NAMES[:3] if made.named.get(name) is None}
    if absent:
        _write(place / TOKENIZER_CONFIG, settings | absent)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")
