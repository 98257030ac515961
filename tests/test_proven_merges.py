"""What the export proves of merges by the definition is what the runtime, which trusts it, proves in its own way."""

import random
from pathlib import Path

from gpt2_export.freeze.merges import as_trained
from gpt2_runtime.tokenizer import merges as runtime

Pairs = list[tuple[str, str]]


def both(pairs: Pairs) -> tuple[bool, bool]:
    written = [list(pair) for pair in pairs]
    return as_trained({"model": {"merges": written}}), runtime.as_trained(runtime.Merges.read(written, "here"))


def edited(rng: random.Random) -> Pairs:
    """Merges of three letters, each of two earlier tokens; then some of them moved."""
    tokens, pairs = ["a", "b", "c"], []
    for _ in range(rng.randrange(12)):
        left, right = rng.choice(tokens), rng.choice(tokens)
        if left + right not in tokens or rng.random() < 0.1:
            pairs.append((left, right))
            tokens.append(left + right)
    for _ in range(rng.choice([0, 0, 1, 2]) if pairs else 0):
        pairs.insert(rng.randrange(len(pairs)), pairs.pop(rng.randrange(len(pairs))))
    return pairs


def test_export_and_runtime_find_the_same() -> None:
    rng = random.Random(0)
    found = [both(edited(rng)) for _ in range(3000)]
    assert {theirs for theirs, _ in found} == {True, False}
    assert [theirs for theirs, _ in found] == [ours for _, ours in found]


def test_gpt2s_own_are_as_trained_and_one_that_is_moved_is_not(tokenizer_dir: Path) -> None:
    lines = (tokenizer_dir / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    pairs = [(left, right) for left, right in (line.split(" ") for line in lines)]
    assert len(pairs) == 50_000
    assert both(pairs) == (True, True)
    assert both([*pairs[1:], pairs[0]]) == (False, False)  # "Ġ t", before "Ġt h"
