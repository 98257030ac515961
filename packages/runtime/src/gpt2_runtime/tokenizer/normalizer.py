"""Unicode normalization exactly as the tokenizers library does it, in time proportional to the text.

The library uses the tables of Unicode 9.0, Python newer ones. They differ only on the characters in `NEWER`, which the
library never decomposes, composes or reorders. So the text between those is normalized piece by piece. The project's
`tests/test_normalizer.py` compares all code points with the library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import chain, groupby
from typing import Literal, get_args

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FORMS: tuple[Form, ...] = get_args(Form)

UNICODE = ("14.0.0", "15.0.0", "15.1.0")
"""The versions of Python's tables that `NEWER` was checked against."""

# Characters that gained a decomposition or a combining class after 9.0.
NEWER = re.compile(
    "([\u07fd\u0898-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1ace\u1df6-\u1dfa\u32ff"
    "\ua7f2-\ua7f4\ua82c\uab69\U00010781-\U00010785\U00010787-\U000107b0\U000107b2-\U000107ba\U00010d24-\U00010d27"
    "\U00010eab\U00010eac\U00010efd-\U00010eff\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011070\U0001133b\U0001145e"
    "\U00011839\U0001183a\U00011938\U0001193d\U0001193e\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011d42"
    "\U00011d44\U00011d45\U00011d97\U00011f41\U00011f42\U00016ff0\U00016ff1\U0001e030-\U0001e06d\U0001e08f"
    "\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef\U0001f16c\U0001fbf0-\U0001fbf9])"
)

SHORT = 256  # characters: up to here Python's quadratic ordering of marks is fast enough


def is_exact() -> bool:
    """Whether this Python's tables are known to differ from the library's only on `NEWER`."""
    return unicodedata.unidata_version in UNICODE


def normalize(forms: Iterable[Form], text: str) -> str:
    """`text` in each normal form in turn.

    >>> normalize(["NFC"], "cafe\\u0301"), normalize(["NFKD", "NFC"], "\\ufb01"), normalize([], "\\ufb01")
    ('café', 'fi', 'ﬁ')
    """
    if text.isascii():
        return text
    for form in forms:
        text = "".join(part if i % 2 else _normalized(form, part) for i, part in enumerate(NEWER.split(text)))
    return text


def _normalized(form: Form, text: str) -> str:
    if len(text) > SHORT:
        text = _ordered(form, text)
    return unicodedata.normalize(form, text)


def _ordered(form: Form, text: str) -> str:
    """`text` decomposed, with its combining marks in canonical order.

    Python inserts each mark separately, which takes quadratic time for a long run of them.
    """
    apart: Form = "NFKD" if "K" in form else "NFD"
    characters = chain.from_iterable(unicodedata.normalize(apart, character) for character in text)
    runs = groupby(characters, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(run, key=unicodedata.combining) if marks else run) for marks, run in runs)
