"""Whether the merges of a tokenizer are as training writes them, which readers need not find out again.

tiktoken joins two neighbours when they make a token together, the tokenizers library when the two are listed as a pair.
That is the same where every merge makes a token of its own, from two made before, and the merges before it spell that
token as these two. Every vocabulary that was trained is like that; an edited one may not be.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import pre_tokenizers

LONGEST_TOKEN = 1000  # characters; GPT-2's longest has 128, and what spells one takes the square of that


def as_trained(tokenizer: Mapping[str, Any]) -> bool:
    """Whether that was proven of a tokenizer.json, merge by merge as the definition says.

    >>> ranked = {"type": "BPE", "merges": ["t h", "th e"]}
    >>> as_trained({"model": ranked}), as_trained({"model": ranked | {"merges": ["t h", "h e", "t he"]}})
    (True, False)
    """
    listed = tokenizer["model"].get("merges")
    if not isinstance(listed, list):
        return False
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in listed]
    ranks: dict[str, int] = dict.fromkeys(pre_tokenizers.ByteLevel.alphabet(), -1)
    for rank, parts in enumerate(merges):
        token = "".join(parts)
        if len(parts) != 2 or token in ranks or not ranks.keys() >= {*parts} or len(token) > LONGEST_TOKEN:
            return False
        if spelled(token, ranks) != parts:
            return False
        ranks[token] = rank
    return True


def spelled(token: str, ranks: Mapping[str, int]) -> Sequence[str]:
    """What merging makes of a token's text: the lowest rank first, then the leftmost.

    >>> spelled("the", {"th": 0, "he": 1})
    ['th', 'e']
    """
    parts = list(token)
    while True:
        pairs = [
            (ranks[left + right], place) for place, (left, right) in enumerate(pairwise(parts)) if left + right in ranks
        ]
        if not pairs:
            return parts
        _, place = min(pairs)
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
