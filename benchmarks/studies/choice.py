"""The time of choosing a token relative to computing its logits, for settings of every kind.

    python benchmarks/studies/choice.py FOLDER

Requires only gpt2-runtime. Each choice comes right after a step, as in generation, so that the processor's caches are
as the step left them. Random weights give flat logits, where top-p keeps tens of thousands; the same logits times 6 are
as peaked as those of a trained model. Controls look at a text of TEXT random tokens, half of them new.
"""

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from gpt2_runtime import SamplingConfig, Session
from gpt2_runtime.sampling.sampler import sample

SETTINGS = {
    "greedy": SamplingConfig(temperature=0),
    "as trained": SamplingConfig(),
    "temperature 0.8": SamplingConfig(temperature=0.8),
    "top-k 1": SamplingConfig(top_k=1),
    "top-k 50": SamplingConfig(top_k=50),
    "top-k 1000": SamplingConfig(top_k=1000),
    "top-k 40,000": SamplingConfig(top_k=40_000),
    "top-p 0.1": SamplingConfig(top_p=0.1),
    "top-p 0.9": SamplingConfig(top_p=0.9),
    "top-p 0.999": SamplingConfig(top_p=0.999),
    "temperature 0.8, top-k 50, top-p 0.95": SamplingConfig(temperature=0.8, top_k=50, top_p=0.95),
    "min-p 0.05": SamplingConfig(min_p=0.05),
    "typical-p 0.9": SamplingConfig(typical_p=0.9),
    "top-k 50, typical-p 0.9": SamplingConfig(top_k=50, typical_p=0.9),
    "greedy, repetition penalty": SamplingConfig(temperature=0, repetition_penalty=1.2),
    "greedy, frequency and presence penalty": SamplingConfig(
        temperature=0, frequency_penalty=0.5, presence_penalty=0.5
    ),
    "greedy, no 3-gram twice": SamplingConfig(temperature=0, no_repeat_ngram_size=3),
    "greedy, bias of 300 tokens": SamplingConfig(temperature=0, logit_bias=dict.fromkeys(range(300), -1.0)),
    "greedy, 1000 bad words of 3 tokens": SamplingConfig(
        temperature=0, bad_words_ids=[(i, i + 1, i + 2) for i in range(1000)]
    ),
    "greedy, min_new_tokens": SamplingConfig(temperature=0, min_new_tokens=1000),
}
SHAPES = {"flat": 1, "peaked": 6}
CONTEXT = 32
TEXT = 1000


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=31, help="(default: 31)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    options = parser.parse_args()
    session, rng = Session.open(options.folder, threads=options.threads), np.random.default_rng(0)
    prompt = rng.integers(session.bundle.architecture.vocab_size, size=CONTEXT)
    _, filled = session.step([prompt], session.empty_cache())
    text = rng.integers(session.bundle.architecture.vocab_size, size=TEXT).tolist()
    so_far = {"prompt_ids": text[: TEXT // 2], "new_ids": text[TEXT // 2 :], "stop_token_ids": (0,)}
    steps: list[float] = []
    choices: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for name, sampling in SETTINGS.items():
            for shape, factor in SHAPES.items():
                start = perf_counter()
                logits, filled = session.step([[int(rng.integers(100))]], filled.crop(CONTEXT))
                steps.append(perf_counter() - start)
                row = logits[0, -1] if factor == 1 else logits[0, -1] * np.float32(factor)
                start = perf_counter()
                sample(row, sampling, rng, **so_far)
                choices.setdefault((name, shape), []).append(perf_counter() - start)
    step = median(steps)
    print(f"a step: {1000 * step:.1f} ms; of it, a choice takes")
    print(f"{'':<40}" + "".join(f"{shape:>10}" for shape in SHAPES))
    for name in SETTINGS:
        print(f"{name:<40}" + "".join(f"{median(choices[name, shape]) / step:>10.1%}" for shape in SHAPES))


if __name__ == "__main__":
    main()
