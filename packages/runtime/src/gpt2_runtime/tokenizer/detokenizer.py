"""Token ids -> streamed text. A character whose bytes span several tokens is held back until it is complete."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """Decodes one stream of tokens; 344 of GPT-2's 50,257 tokens are not valid UTF-8 by themselves.

    Bytes that can never form a character become U+FFFD, as with `bytes.decode(errors="replace")`. The pieces joined are
    the text of all the bytes decoded at once.

    Args:
        token_bytes: maps a token id to its bytes, such as `Tokenizer.token_bytes`.

    >>> smile = "🙂".encode()
    >>> stream = Detokenizer({0: smile[:3], 1: smile[3:]}.__getitem__)
    >>> stream.feed(0), stream.feed(1), stream.flush()
    ('', '🙂', '')
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that this token completes; may be empty."""
        return self._decoder.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """The rest at the end of the stream: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)
