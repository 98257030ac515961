"""An explanation as one HTML page with its own styles, script and numbers; it loads nothing."""

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
    """The page as HTML.

    Its content security policy allows the script and the styles by their hashes, so that the page runs nothing else and
    opens no connection, whatever the tokens contain.
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
    """The numbers that the page's script reads; log-probabilities in thousandths."""
    L, H, T, _ = explanation.attentions.shape
    labelled = {*explanation.token_ids, *explanation.lens_ids.ravel().tolist()}
    return {
        "layers": L,
        "heads": H,
        "guesses": explanation.lens_ids.shape[-1],
        "prompt": explanation.prompt_tokens,
        "perplexity": explanation.perplexity,
        "tokens": explanation.token_ids,
        "ranks": explanation.ranks.tolist(),
        "labels": {id_: _label(explanation, id_) for id_ in sorted(labelled)},
        "completed": _completed(explanation),
        "lensIds": explanation.lens_ids.ravel().tolist(),
        "lensLogProbs": _thousandths(explanation.lens_log_probs),
        "nextLogProbs": _thousandths(explanation.lens_next_log_probs[:, : T - 1]),
        "attention": packed(explanation.attentions),
    }


def packed(attentions: npt.NDArray[np.float32]) -> str:
    """Attention [L, H, T, T] as base64 of deflated bytes, one byte per weight on or below the diagonal.

    A byte is 255 times the weight's square root, so that small weights are more precise: 0.001 is stored to within
    0.0001, and 1 to within 0.002. Row i has i + 1 of them.

    >>> raw = zlib.decompress(base64.b64decode(packed(np.array([[[[1.0, 0.0], [0.25, 0.75]]]], np.float32))))
    >>> list(raw)
    [255, 128, 221]
    """
    T = attentions.shape[-1]
    seen = attentions[..., *np.tril_indices(T)]  # [L, H, T (T + 1) / 2]
    quantised = np.rint(255 * np.sqrt(seen.clip(0, 1))).astype(np.uint8)
    return base64.b64encode(zlib.compress(quantised.tobytes(), 9)).decode()


def write(page: str, path: Path, *, force: bool = False) -> None:
    """Writes a page atomically.

    Raises:
        SettingError: the file exists and `force` is not set, or it cannot be written.
    """
    refuse_existing(path, force=force)
    target = path.resolve()  # writes the target of a link, and keeps the link
    partial = target.with_name(f".gpt2-runtime-{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise SettingError(f"{path} cannot be written: {error.strerror or error}; name another file") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raises the SettingError that `write` would raise, before any work is done."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SettingError(
                f"{path} cannot be written: folder {path.parent} does not exist; create it first"
            ) from None
        return
    except (OSError, ValueError) as error:  # a name that is too long, or contains a NUL
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{path} cannot be written: {reason}; name another file") from error
    if not stat.S_ISREG(status.st_mode):
        raise SettingError(
            f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}; name a file"
        )
    if not force:
        raise SettingError(f"{path} exists; remove it, choose another name, or pass force=True to replace it")


def _label(explanation: Explanation, token_id: int) -> list[Glyph]:
    """The label of a token; its id if it has no text."""
    tokenizer = explanation.tokenizer
    return (glyphs(tokenizer.token_bytes(token_id)) if tokenizer else []) or [("code", f"#{token_id}")]


def _completed(explanation: Explanation) -> dict[int, str]:
    """Position -> the character that the token there completes, if its first bytes are in earlier tokens."""
    if explanation.tokenizer is None:
        return {}
    token_bytes = explanation.tokenizer.token_bytes
    detokenizer = Detokenizer(token_bytes)
    completed = {}
    for place, id_ in enumerate(explanation.token_ids):
        piece = detokenizer.feed(id_)
        label = glyphs(token_bytes(id_))
        if label and label[0][0] == "byte" and piece[:1].isprintable() and piece[:1] not in ("", "\ufffd"):
            completed[place] = piece[0]
    return completed


def _thousandths(log_probs: npt.NDArray[np.float32]) -> list[int]:
    numbers: list[int] = np.rint(1000 * log_probs.astype(np.float64)).astype(np.int64).ravel().tolist()
    return numbers


def _json(fields: Mapping[str, object]) -> str:
    """JSON in ASCII, without characters that could end the element around it or start another."""
    text = json.dumps(fields, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
