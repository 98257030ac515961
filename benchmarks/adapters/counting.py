"""No runtime: counts on from the last id, for the tests of the driver. It prints, as libraries do."""

from time import perf_counter

from protocol import Generated, serve


class Counting:
    def load(self, model: str, precision: str, threads: int) -> None:
        print("loading", model)
        if precision != "fp32":
            raise ValueError(f"{precision} is\nnot known")

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        start = perf_counter()
        ids = [[prompt[-1] + 1 + index for index in range(new_tokens)] for prompt in prompts]
        first = perf_counter()
        return Generated(ids, (start, first, perf_counter()))


if __name__ == "__main__":
    serve(Counting())
