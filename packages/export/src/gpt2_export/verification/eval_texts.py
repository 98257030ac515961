"""The texts that a precision is measured on: unseen ones, the model's own, and the user's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from gpt2_export.errors import PrecisionError
from gpt2_export.verification.backends import Step

SONNETS = Path(__file__).parent / "sonnets.txt"  # eight by Shakespeare; the demo was trained only on the plays
OWN = "its own text"
OWN_TOKENS = 256
MOST_TOKENS = 1024  # per text
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Text:
    """Token ids [T], and whether the reference generated them."""

    name: str
    ids: np.ndarray
    own: bool = False


def texts(folder: Path, files: Sequence[Path], reference: Step, *, vocab_size: int, n_positions: int) -> list[Text]:
    """The texts to measure a folder's precisions on; the first `MOST_TOKENS` of each.

    Args:
        folder: a made folder; without a tokenizer only the model's own text is used.
        files: the user's, instead of the sonnets.
        reference: the folder's float32 graph.
        vocab_size, n_positions: of the network.

    Raises:
        PrecisionError: a file is not text or is too short, or the tokenizer is missing or damaged.
    """
    own = Text(name=OWN, ids=drawn(reference, vocab_size, min(OWN_TOKENS, n_positions)), own=True)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        if files:
            raise PrecisionError(f"{folder} has no tokenizer, so {files[0]} cannot be read; leave it out")
        return [own]
    encoder = _encoder(tokenizer)
    encoded = [Text(name=file.name, ids=_encoded(encoder, file, vocab_size)) for file in files or [SONNETS]]
    return [own, *encoded]


def drawn(step: Step, vocab_size: int, count: int) -> np.ndarray:
    """`count` tokens of the model's own text, [count], at temperature 1; the first one is random."""
    rng = np.random.default_rng(SEED)
    ids, cache = [int(rng.integers(vocab_size))], None
    while len(ids) < count:
        position = np.array([[len(ids) - 1]])
        logits, cache = step(np.array([[ids[-1]]]), np.ones((1, len(ids)), np.int64), position, cache)
        noise = rng.gumbel(size=vocab_size)  # the argmax of logits plus Gumbel noise samples their softmax
        ids.append(int((logits[0, -1] + noise).argmax()))
    return np.array(ids)


def _encoder(path: Path) -> Tokenizer:
    try:
        encoder = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise PrecisionError(f"{path} cannot be loaded as a tokenizer: {error}; make the folder again") from error
    encoder.no_truncation()
    return encoder


def _encoded(encoder: Tokenizer, file: Path, vocab_size: int) -> np.ndarray:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PrecisionError(f"{file} is not UTF-8 at byte {error.start}; convert it, e.g. with iconv") from error
    except OSError as error:
        raise PrecisionError(f"{file} cannot be read: {error.strerror}") from error
    ids = np.array(encoder.encode(text, add_special_tokens=False).ids[:MOST_TOKENS], np.int64)
    if len(ids) < 2:
        raise PrecisionError(f"{file} has {len(ids)} tokens; it must have at least 2; use a longer text")
    if ids.max() >= vocab_size:
        raise PrecisionError(
            f"{file} has token {ids.max()}, the model has {vocab_size}; the tokenizer does not fit the model"
        )
    return ids
