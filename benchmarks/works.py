"""What is measured: the workloads of every runtime, their prompts, and the figures."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Work:
    """`rows` prompts of `prompt` tokens, continued by `new` tokens each as one batch."""

    rows: int
    prompt: int
    new: int

    def prompts(self, vocabulary: int) -> list[list[int]]:
        """Random ids, the same for every runtime and in every round.

        >>> Work(rows=2, prompt=3, new=1).prompts(10)
        [[6, 6, 0], [4, 8, 7]]
        """
        rng = random.Random(0)
        return [[rng.randrange(vocabulary) for _ in range(self.prompt)] for _ in range(self.rows)]

    @property
    def context(self) -> float:
        """The average number of tokens a decoding step attends to: from prompt + 1 to prompt + new - 1.

        >>> Work(rows=1, prompt=32, new=128).context
        96.0
        """
        return self.prompt + self.new / 2


WORKS = {
    "decode": Work(rows=1, prompt=32, new=128),
    "context": Work(rows=1, prompt=896, new=100),
    "prefill": Work(rows=1, prompt=512, new=1),
    "batch": Work(rows=8, prompt=32, new=64),
    # `decode` in a fresh process: the times of the first and the last token, and the memory of that alone.
    "start": Work(rows=1, prompt=32, new=128),
}
CUDA_WORKS = {
    "decode": Work(rows=1, prompt=32, new=128),
    "decode_8": Work(rows=8, prompt=32, new=128),
    "decode_64": Work(rows=64, prompt=32, new=128),
    "decode_256": Work(rows=256, prompt=32, new=128),
    "context": Work(rows=1, prompt=896, new=100),
    "context_8": Work(rows=8, prompt=896, new=100),
    "context_64": Work(rows=64, prompt=896, new=100),
    "context_256": Work(rows=256, prompt=896, new=100),
    "prefill": Work(rows=1, prompt=512, new=1),
    "prefill_8": Work(rows=8, prompt=512, new=1),
    "start": Work(rows=1, prompt=32, new=128),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure in the table, and whether larger is better."""

    title: str
    unit: str
    digits: int = 0
    larger_is_better: bool = False

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ours is.

        >>> FIGURES["decode"].ratio(50, 40), FIGURES["prefill"].ratio(500, 400)
        (1.25, 0.8)
        """
        return ours / theirs if self.larger_is_better else theirs / ours

    def text(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


FIGURES = {
    "decode": Figure(title="decode, 32 + 128 tokens", unit="tokens/s", larger_is_better=True),
    "decode_8": Figure(title="decode, 8 x (32 + 128)", unit="tokens/s", larger_is_better=True),
    "decode_64": Figure(title="decode, 64 x (32 + 128)", unit="tokens/s", larger_is_better=True),
    "decode_256": Figure(title="decode, 256 x (32 + 128)", unit="tokens/s", larger_is_better=True),
    "context": Figure(title="decode at 900, 896 + 100", unit="tokens/s", larger_is_better=True),
    "context_8": Figure(title="decode at 900, 8 x (896 + 100)", unit="tokens/s", larger_is_better=True),
    "context_64": Figure(title="decode at 900, 64 x (896 + 100)", unit="tokens/s", larger_is_better=True),
    "context_256": Figure(title="decode at 900, 256 x (896 + 100)", unit="tokens/s", larger_is_better=True),
    "prefill": Figure(title="first token of 512", unit="ms"),
    "prefill_8": Figure(title="first tokens of 8 x 512", unit="ms"),
    "batch": Figure(title="batch, 8 x (32 + 64)", unit="tokens/s", larger_is_better=True),
    "start": Figure(title="start to first token", unit="s", digits=2),
    "whole": Figure(title="start to 128 tokens", unit="s", digits=2),
    "memory": Figure(title="peak RSS, decode alone", unit="MB"),
    "memory_highest": Figure(title="peak RSS, all works", unit="MB"),
}


def speed(work: Work, first_token_seconds: float, decode_seconds: float) -> float:
    """A workload's figure: tokens per second after the first, over all rows; for a prefill, milliseconds to the first.

    >>> speed(Work(rows=8, prompt=32, new=64), 0.1, 2.0)
    252.0
    """
    if work.new == 1:
        return first_token_seconds * 1000
    return work.rows * (work.new - 1) / decode_seconds
