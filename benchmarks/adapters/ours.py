"""gpt2_runtime: one prompt as a user would generate, a batch through the session's steps."""

from time import perf_counter
from typing import Any

from protocol import Generated, serve


class Ours:
    """Opens the folder that the driver made with gpt2-export."""

    def load(self, model: str, precision: str, threads: int, device: str = "cpu", **options: Any) -> None:
        """`options` are the session's own, such as `cuda_graph`."""
        from gpt2_runtime import Session

        # As `gpt2-runtime generate` opens it: in float32, weights are packed after a few tokens.
        self.session = Session.open(
            model, precision=precision, provider=device, threads=threads, prepack=False, **options
        )

    def release(self) -> None:
        """Returns a cache's memory to onnxruntime, which keeps it for the next."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        return self.one(prompts[0], new_tokens) if len(prompts) == 1 else self.batch(prompts, new_tokens)

    def one(self, prompt: list[int], new_tokens: int) -> Generated:
        from gpt2_runtime import GREEDY, Token, generate

        ids: list[int] = []
        start = first = perf_counter()
        for event in generate(self.session, prompt, max_new_tokens=new_tokens, sampling=GREEDY, stop_token_ids=()):
            if isinstance(event, Token):
                if not ids:
                    first = perf_counter()
                ids.append(event.id)
        return Generated([ids], (start, first, perf_counter()))

    def batch(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        import numpy as np
        from gpt2_runtime import GREEDY
        from gpt2_runtime.sampling.sampler import sample

        rng = np.random.default_rng(0)  # greedy never uses it
        counts = [GREEDY.needed] * len(prompts)
        start = first = perf_counter()
        cache = self.session.empty_cache(batch_size=len(prompts), capacity=len(prompts[0]) + new_tokens)
        steps = [prompts]
        while len(steps) <= new_tokens:
            rows, cache = self.session.step_top_k(steps[-1], cache, counts)  # [B] of [1]
            steps.append([[sample(row, GREEDY, rng)] for (row,) in rows])
            if len(steps) == 2:
                first = perf_counter()
        chosen = [[id_ for (id_,) in row] for row in zip(*steps[1:], strict=True)]
        return Generated(chosen, (start, first, perf_counter()))


if __name__ == "__main__":
    serve(Ours())
