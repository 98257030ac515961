"""Token ids -> text as they come. A character whose bytes span tokens is held back until it is whole."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """The text of one stream of tokens; of GPT-2's 50,257, 344 are no valid UTF-8 alone.

    Bytes that can never become a character are U+FFFD, as `bytes.decode(errors="replace")` has it, and the text of all
    pieces together is that of all bytes together.

    Args:
        token_bytes: the bytes of a token id, such as `Tokenizer.token_bytes`.

    >>> smile = "🙂".encode()
    >>> stream = Detokenizer({0: smile[:3], 1: smile[3:]}.__getitem__)
    >>> stream.feed(0), stream.feed(1), stream.flush()
    ('', '🙂', '')
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that this token completes, which may be empty."""
        return self._decoder.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end of the stream: U+FFFD for a character that never became whole."""
        return self._decoder.decode(b"", final=True)
