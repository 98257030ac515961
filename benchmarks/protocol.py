"""The protocol between the driver and an adapter: one JSON object per line, one reply per request.

    {"op": "convert", "checkpoint": PATH, "target": PATH, "precision": "int8"}   -> {}
    {"op": "load", "model": PATH, "precision": "int8", "threads": 2}             -> {}
        and on a GPU "device": "cuda", with the options that peers-cuda.toml has for the peer
    {"op": "generate", "prompts": [[ids], ...], "new_tokens": 64}
        -> {"ids": [[ids], ...], "first_token_seconds": 0.1, "decode_seconds": 1.2}
    {"op": "release"}                                                            -> {}
        on a GPU, whose memory the runtimes share: releases what is not needed until the next `generate`
    {"op": "read"}                                                               -> {"bytes": ..., "seconds": ...}

A failed request is answered with {"error": TEXT}. The adapter ends with its standard input. Greedy, no stop token, ids
in and ids out; the prompts of one request have the same length. Only the standard library is imported here, because the
time from an adapter's start to its first token is measured.
"""

import json
import os
import sys
import traceback
from typing import IO, Any, Protocol


class Generated(dict[str, Any]):
    """The reply to `generate`.

    Args:
        ids: the new tokens of each row.
        times: `perf_counter` before the prompts were read, when every row had its first token, and at the end.

    >>> Generated([[7, 8]], (10.0, 10.5, 12.5))
    {'ids': [[7, 8]], 'first_token_seconds': 0.5, 'decode_seconds': 2.0}
    """

    def __init__(self, ids: list[list[int]], times: tuple[float, float, float]) -> None:
        start, first, end = times
        super().__init__(ids=ids, first_token_seconds=first - start, decode_seconds=end - first)


class PackedSession(Protocol):
    """The interface of an adapter; it imports its library in the methods, not before."""

    def convert(self, checkpoint: str, target: str, precision: str) -> None:
        """Converts a Hugging Face checkpoint for `load`; `target` is a folder that does not exist yet."""

    def load(self, model: str, precision: str, threads: int) -> None:
        """Opens a converted model."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """Continues the prompts as one batch."""


def claim_stdout() -> IO[str]:
    """The real standard output, only for replies: from here on, libraries print to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def serve(engine: object, requests: IO[str] | None = None, replies: IO[str] | None = None) -> None:
    """Answers requests until there are no more: each is a call of the engine's method named by `op`.

    >>> import io
    >>> class Echo:
    ...     def say(self, word): return {"word": word}
    >>> out = io.StringIO()
    >>> serve(Echo(), io.StringIO('{"op": "say", "word": "hello"}'), out)
    >>> out.getvalue()
    '{"word": "hello"}\\n'
    """
    replies = replies or claim_stdout()
    for line in requests or sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(engine, request.pop("op"))(**request) or {}
        except Exception as error:  # whatever a library raises; the driver reports it and continues
            traceback.print_exc()
            message = " ".join(str(error).split())
            reply = {"error": f"{type(error).__name__}: {message}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
