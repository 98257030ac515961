"""Tensors that are not those of the network which a config describes: what is said of them, in a few lines at most."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile

from gpt2_model.quoting import name_shown

MISSING, UNEXPECTED, TWICE, SHAPE, DTYPE = "missing", "unexpected", "twice", "of another shape", "of another type"
MOST = 3  # complaints of one kind, those that differ in the number of a block alone counted as one
BLOCK = re.compile(r"\bh\.\d+\.")


def report(misfits: Mapping[str, Sequence[str]], sizes: Mapping[str, tuple[int, int]]) -> str:
    """One sentence on all that does not fit.

    Args:
        misfits: of each kind, the complaints, each of which names its tensor.
        sizes: fields of config.json with what it says and what the tensors say.

    >>> report({MISSING: [f"missing h.{i}.ln_1.bias" for i in range(12)], SHAPE: []}, {})
    '12 tensors do not fit: missing h.*.ln_1.bias (in 12 blocks)'
    >>> report({MISSING: ["missing wpe.weight"]}, {})
    '1 tensor does not fit: missing wpe.weight'
    """
    number = sum(len(complaints) for complaints in misfits.values())
    differ = [(name, said, seen) for name, (said, seen) in sizes.items() if said != seen]
    parts = [f"config.json says {name} {said}, the tensors {seen}" for name, said, seen in differ]
    for kind, complaints in misfits.items():
        counted = Counter(BLOCK.sub("h.*.", complaint) for complaint in complaints)
        alone = {BLOCK.sub("h.*.", complaint): complaint for complaint in complaints}
        groups = [alone[each] if n == 1 else f"{each} (in {n} blocks)" for each, n in counted.items()]
        parts += groups[:MOST]
        if len(groups) > MOST:
            parts.append(f"{len(complaints) - sum([*counted.values()][:MOST])} more are {kind}{_in_common(complaints)}")
    return f"{number} {'tensor does' if number == 1 else 'tensors do'} not fit: {'; '.join(parts)}"


def _in_common(complaints: Sequence[str]) -> str:
    """What all the names begin with, where that is more than the word before them."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(complaints), max(complaints), strict=False))
    start = "".join(one for one, _ in alike)
    prefix = start.rpartition(" ")[2].rpartition(".")[0]
    return f", all begin with {name_shown(prefix + '.')}" if prefix else ""
