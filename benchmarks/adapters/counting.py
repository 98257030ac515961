"""Not a runtime: counts up from the last id, for the driver's tests. It prints, as libraries do."""

from time import perf_counter

from protocol import Generated, serve


class Counting:
    most = 1000

    def load(
        self, model: str, precision: str, threads: int, device: str = "cpu", most: int = 1000, known: str = "fp32"
    ) -> None:
        """Knows one precision and holds at most `most` rows; without a precision it serves only `read`."""
        print("loading", model)
        self.most = most
        if precision not in (known, ""):
            raise ValueError(f"{precision} is\nnot known")

    def release(self) -> None:
        print("released", flush=True)

    def read(self) -> dict[str, float]:
        """Like a bandwidth adapter."""
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
