"""The message for tensors that do not fit the config: a few lines at most."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile

from gpt2_model.quoting import name_shown

MISSING, UNEXPECTED, TWICE, SHAPE, DTYPE = "missing", "unexpected", "twice", "of another shape", "of another type"
MOST = 3  # complaints of one kind; those that differ only in the block's number count as one
BLOCK = re.compile(r"\bh\.\d+\.")


def report(misfits: Mapping[str, Sequence[str]], sizes: Mapping[str, tuple[int, int]]) -> str:
    """One sentence about everything that does not fit.

    Args:
        misfits: the complaints of each kind, each naming its tensor.
        sizes: fields of config.json, each with its value there and in the tensors.

    >>> report({MISSING: [f"missing h.{i}.ln_1.bias" for i in range(12)], SHAPE: []}, {})
    '12 tensors do not fit: missing h.*.ln_1.bias (in 12 blocks)'
    >>> report({MISSING: ["missing wpe.weight"]}, {})
    '1 tensor does not fit: missing wpe.weight'
    """
    number = sum(len(complaints) for complaints in misfits.values())
    differ = [(name, stated, actual) for name, (stated, actual) in sizes.items() if stated != actual]
    parts = [f"config.json says {name} {stated}, the tensors {actual}" for name, stated, actual in differ]
    for kind, complaints in misfits.items():
        counted = Counter(BLOCK.sub("h.*.", complaint) for complaint in complaints)
        alone = {BLOCK.sub("h.*.", complaint): complaint for complaint in complaints}
        groups = [alone[each] if n == 1 else f"{each} (in {n} blocks)" for each, n in counted.items()]
        parts += groups[:MOST]
        if len(groups) > MOST:
            parts.append(f"{len(complaints) - sum([*counted.values()][:MOST])} more are {kind}{_in_common(complaints)}")
    return f"{number} {'tensor does' if number == 1 else 'tensors do'} not fit: {'; '.join(parts)}"


def _in_common(complaints: Sequence[str]) -> str:
    """The prefix that all the names share, if any."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(complaints), max(complaints), strict=False))
    start = "".join(one for one, _ in alike)
    prefix = start.rpartition(" ")[2].rpartition(".")[0]
    return f", all begin with {name_shown(prefix + '.')}" if prefix else ""
