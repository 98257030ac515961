"""Not a runtime: measures the machine's current read bandwidth, with the same number of threads as the runtimes.

numpy's fastest reduction, the maximum of bytes, does the least work per byte read.
"""

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
from protocol import serve

BYTES = 512 * 2**20  # far beyond any cache
PASSES = 3


class Bandwidth:
    def load(self, model: str, precision: str, threads: int) -> None:
        array = np.ones(BYTES, dtype=np.uint8)
        self.parts = np.array_split(array, threads)
        self.pool = ThreadPoolExecutor(threads)
        self.pass_over()

    def pass_over(self) -> None:
        list(self.pool.map(np.max, self.parts))

    def read(self) -> dict[str, float]:
        """The fastest of a few passes."""
        seconds = []
        for _ in range(PASSES):
            start = perf_counter()
            self.pass_over()
            seconds.append(perf_counter() - start)
        return {"bytes": BYTES, "seconds": min(seconds)}


if __name__ == "__main__":
    serve(Bandwidth())
