"""The shapes on which a graph must agree with the network, chosen where exports are known to go wrong."""

from dataclasses import dataclass

import numpy as np

Ids = np.ndarray
"""int64."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Reads `past` tokens in one call and the rest in a second, whose logits are compared wherever there is text.

    Attributes:
        name: for reports.
        input_ids: (B, P+T).
        attention_mask: (B, P+T), 1 for text, 0 for padding.
        past: P, the tokens of the first call; 0 means no first call.
    """

    name: str
    input_ids: Ids
    attention_mask: Ids
    past: int

    @property
    def position_ids(self) -> Ids:
        """(B, P+T): counts the text and skips the padding."""
        return np.asarray(np.maximum(self.attention_mask.cumsum(axis=1) - 1, 0))


def cases(*, vocab_size: int, n_positions: int, seed: int = 0) -> tuple[Case, ...]:
    """Batches of 1 and 3; past 0, 1, n and all but one; one token and many; padding on either side.

    >>> [case.name for case in cases(vocab_size=100, n_positions=2)]
    ['one token', 'prompt', 'three prompts', 'one token after one', 'last position', 'second half of the context']
    """
    rng = np.random.default_rng(seed)
    n = max(1, min(24, n_positions // 3))
    half = max(1, n // 2)

    def case(name: str, batch: int, past: int, new: int, padding: str = "") -> Case | None:
        if past + new > n_positions or past < 0:
            return None
        ids = rng.integers(vocab_size, size=(batch, past + new))
        mask = np.ones_like(ids)
        for row, width in enumerate((0, 1, past + new - 1) if padding else ()):
            mask[row, slice(0, width) if padding == "left" else slice(past + new - width, None)] = 0
        return Case(name=name, input_ids=ids, attention_mask=mask, past=past)

    made = (
        case("one token", 1, 0, 1),
        case("prompt", 1, 0, n),
        case("three prompts", 3, 0, n),
        case("one token after one", 3, 1, 1),
        case(f"{n} tokens after one", 3, 1, n) if n > 1 else None,
        case(f"one token after {n}", 3, n, 1) if n > 1 else None,
        case(f"{half} tokens after {n}", 3, n, half) if half > 1 else None,
        case("left-padded prompts", 3, 0, n, "left") if n > 1 else None,
        case(f"{half} tokens after {n}, left-padded", 3, n, half, "left") if half > 1 else None,
        case("right-padded prompts", 3, 0, n, "right") if n > 1 else None,
        case("last position", 1, n_positions - 1, 1) if n_positions > 1 else None,
        case("second half of the context", 1, n_positions // 2, n_positions - n_positions // 2),
    )
    return tuple(found for found in made if found is not None)
