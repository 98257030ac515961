"""An explanation as one HTML page: styles, program and numbers are in it, and it asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import stat
import zlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import SettingError
from gpt2_runtime.explain.explainer import Explanation
from gpt2_runtime.explain.visible_tokens import Glyph, glyphs
from gpt2_runtime.tokenizer.detokenizer import Detokenizer

TEMPLATE = Path(__file__).parent / "template"
PLACE = re.compile(r"\{\{(\w+)\}\}")


def render(explanation: Explanation) -> str:
    """The page.

    The program and the styles are named by their hashes in a content security policy, which lets the page run nothing
    else and open no connection, whatever stands in the tokens.
    """
    style, program = _template("page.css"), _template("page.js")
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(program)}'"
    parts = {
        "policy": policy,
        "title": html.escape(f"How {explanation.model} reads a text"),
        "model": html.escape(explanation.model),
        "maker": html.escape(f"gpt2-runtime {version('gpt2-runtime')}"),
        "style": style,
        "program": program,
        "data": _json(data(explanation)),
    }
    return PLACE.sub(lambda place: parts[place[1]], _template("page.html"))


def data(explanation: Explanation) -> dict[str, object]:
    """The numbers that the page's program reads; log-probabilities in thousandths."""
    L, H, T, _ = explanation.attentions.shape
    shown = {*explanation.token_ids, *explanation.lens_ids.ravel().tolist()}
    return {
        "layers": L,
        "heads": H,
        "guesses": explanation.lens_ids.shape[-1],
        "prompt": explanation.prompt_tokens,
        "perplexity": explanation.perplexity,
        "tokens": explanation.token_ids,
        "ranks": explanation.ranks.tolist(),
        "labels": {id_: _label(explanation, id_) for id_ in sorted(shown)},
        "completed": _completed(explanation),
        "lensIds": explanation.lens_ids.ravel().tolist(),
        "lensLogProbs": _thousandths(explanation.lens_log_probs),
        "nextLogProbs": _thousandths(explanation.lens_next_log_probs[:, : T - 1]),
        "attention": packed(explanation.attentions),
    }


def packed(attentions: npt.NDArray[np.float32]) -> str:
    """Attention [L, H, T, T] as base64 of deflated bytes, one for each weight that a token may give.

    A byte is 255 times the weight's square root, so that small weights keep more of what they are: 0.001 is stored to
    within 0.0001, and 1 to within 0.002. Row i has i + 1 of them.

    >>> raw = zlib.decompress(base64.b64decode(packed(np.array([[[[1.0, 0.0], [0.25, 0.75]]]], np.float32))))
    >>> list(raw)
    [255, 128, 221]
    """
    T = attentions.shape[-1]
    seen = attentions[..., *np.tril_indices(T)]  # [L, H, T (T + 1) / 2]
    quantised = np.rint(255 * np.sqrt(seen.clip(0, 1))).astype(np.uint8)
    return base64.b64encode(zlib.compress(quantised.tobytes(), 9)).decode()


def write(page: str, path: Path, *, force: bool = False) -> None:
    """Writes a page, whole or not at all.

    Raises:
        SettingError: the file exists and `force` is not given, or it cannot be written.
    """
    refuse_existing(path, force=force)
    whole = path.resolve()  # where a link leads to is written, and the link stays
    partial = whole.with_name(f".gpt2-runtime-{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(whole)
    except OSError as error:
        raise SettingError(f"{path} cannot be written: {error.strerror or error}; name another file") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raises SettingError where `write` would, before any work is done."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SettingError(f"{path} cannot be written: there is no folder {path.parent}; make it first") from None
        return
    except (OSError, ValueError) as error:  # a name that is too long; one with a NUL
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{path} cannot be written: {reason}; name another file") from error
    if not stat.S_ISREG(status.st_mode):
        raise SettingError(
            f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}; name a file"
        )
    if not force:
        raise SettingError(f"{path} exists; remove it, choose another name, or pass force=True to replace it")


def _label(explanation: Explanation, token_id: int) -> list[Glyph]:
    """What is shown of a token; its id where there is no text."""
    tokenizer = explanation.tokenizer
    return (glyphs(tokenizer.token_bytes(token_id)) if tokenizer else []) or [("code", f"#{token_id}")]


def _completed(explanation: Explanation) -> dict[int, str]:
    """The character that a token ends whose other bytes are those of the tokens before it, by the token's place."""
    if explanation.tokenizer is None:
        return {}
    token_bytes = explanation.tokenizer.token_bytes
    detokenizer = Detokenizer(token_bytes)
    found = {}
    for place, id_ in enumerate(explanation.token_ids):
        piece = detokenizer.feed(id_)
        shown = glyphs(token_bytes(id_))
        if shown and shown[0][0] == "byte" and piece[:1].isprintable() and piece[:1] not in ("", "\ufffd"):
            found[place] = piece[0]
    return found


def _thousandths(log_probs: npt.NDArray[np.float32]) -> list[int]:
    found: list[int] = np.rint(1000 * log_probs.astype(np.float64)).astype(np.int64).ravel().tolist()
    return found


def _json(document: Mapping[str, object]) -> str:
    """In ASCII, and without what could end the element around it or begin another."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
