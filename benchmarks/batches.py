"""The cost and benefit of the batch scheduler: ratios within a round, in one process.

    python benchmarks/batches.py FOLDER
    python benchmarks/batches.py FOLDER --precision int8 --rounds 9 --figure alike

Requires gpt2-runtime. The first figure is the benchmark's batch, 8 x (32 + 64) tokens: the throughput of
`complete_batch` relative to plain greedy steps of 8 rows on the same prompts. The second is 64 prompts of 1 to 512
tokens and 64 new ones each: the throughput relative to one prompt after another.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np
from gpt2_runtime import GREEDY, Prompt, Session, TextGenerator, complete_batch
from works import WORKS

PAUSE = 0.1  # until spinning threads are asleep
MANY, LONGEST, NEW = 64, 512, 64


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default=None, help="(default: the most exact one)")
    parser.add_argument("--figure", choices=["alike", "mixed"], help="(default: both; mixed takes minutes per round)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    options = parser.parse_args()
    session = Session.open(options.folder, precision=options.precision, threads=options.threads)
    generator = TextGenerator(session=session, tokenizer=None)
    vocabulary = session.bundle.architecture.vocab_size
    rng = np.random.default_rng(0)
    alike = [(prompt, WORKS["batch"].new) for prompt in WORKS["batch"].prompts(vocabulary)]
    mixed = [(rng.integers(vocabulary, size=size).tolist(), NEW) for size in rng.integers(1, LONGEST + 1, size=MANY)]
    figures: dict[str, tuple[str, list[tuple[list[int], int]], Callable[[], None]]] = {
        "alike": ("8 x (32 + 64), to plain steps", alike, lambda: plain(session, alike)),
        "mixed": ("64 x (1 to 512 + 64), to one by one", mixed, lambda: one_by_one(generator, mixed)),
    }
    for name, work, other in [figures[options.figure]] if options.figure else figures.values():
        ratios, paces = [], []
        for number in range(options.rounds + 1):
            there, here = seconds(other), seconds(lambda work=work: batch(generator, work))
            if number:  # the first round warms up
                ratios.append(there / here)
                paces.append(sum(new for _, new in work) / here)
        print(f"{name:<38}{median(ratios):>6.2f}   {median(paces):>6.0f} tokens/s")


def seconds(work: Callable[[], None]) -> float:
    sleep(PAUSE)
    start = perf_counter()
    work()
    return perf_counter() - start


def batch(generator: TextGenerator, work: list[tuple[list[int], int]]) -> None:
    for result in complete_batch(generator, [Prompt(prompt=ids, settings=settings(new)) for ids, new in work]):
        assert len(result.completions[0].token_ids) == work[result.index][1]


def one_by_one(generator: TextGenerator, work: list[tuple[list[int], int]]) -> None:
    for ids, new in work:
        generator.complete(ids, **settings(new))


def settings(new: int) -> dict[str, object]:
    return {"max_new_tokens": new, "sampling": GREEDY, "stop_token_ids": ()}


def plain(session: Session, work: list[tuple[list[int], int]]) -> None:
    """All rows by one token per step: all prompts have the same length, and all texts too."""
    (new,) = {new for _, new in work}
    capacity = max(len(ids) for ids, _ in work) + new
    logits, cache = session.step([ids for ids, _ in work], session.empty_cache(len(work), capacity=capacity))
    for _ in range(new - 1):
        logits, cache = session.step(logits[:, -1].argmax(-1)[:, None], cache)


if __name__ == "__main__":
    main()
