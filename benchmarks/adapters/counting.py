"""No runtime: counts on from the last id, for the tests of the driver. It prints, as libraries do."""

from time import perf_counter

from protocol import Generated, serve


class Counting:
    most = 1000

    def load(
        self, model: str, precision: str, threads: int, device: str = "cpu", most: int = 1000, known: str = "fp32"
    ) -> None:
        """It knows one precision, and cannot hold more than `most` rows; no precision is for `read` alone."""
        print("loading", model)
        self.most = most
        if precision not in (known, ""):
            raise ValueError(f"{precision} is\nnot known")

    def release(self) -> None:
        print("released", flush=True)

    def read(self) -> dict[str, float]:
        """As an adapter of bandwidth does."""
        return {"bytes": 1e9, "seconds": 0.5}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        if len(prompts) > self.most:
            raise MemoryError(f"{len(prompts)} rows are too many")
        start = perf_counter()
        ids = [[prompt[-1] + 1 + index for index in range(new_tokens)] for prompt in prompts]
        first = perf_counter()
        return Generated(ids, (start, first, perf_counter()))


if __name__ == "__main__":
    serve(Counting())
