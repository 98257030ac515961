"""Not a runtime: measures the GPU's current copy bandwidth, with CUDA's own copy.

Runs in gpt2-runtime's environment, whose onnxruntime installs libcudart.
"""

import ctypes
from time import perf_counter
from typing import Any

from protocol import serve

BYTES = 512 * 2**20  # far beyond any cache
COPIES = 10  # between two readings of the clock: starting and waiting takes a hundredth of a copy
PASSES = 3
DEVICE_TO_DEVICE = 3  # cudaMemcpyDeviceToDevice


class Bandwidth:
    def load(self, model: str, precision: str, threads: int) -> None:
        self.start(libcudart())

    def start(self, runtime: Any, size: int = BYTES) -> None:
        """Allocates two buffers on the device."""
        self.runtime, self.size = runtime, size
        self.source, self.target = ctypes.c_void_p(), ctypes.c_void_p()
        for pointer in (self.source, self.target):
            self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
            self.call("cudaMemset", pointer, ctypes.c_int(1), ctypes.c_size_t(size))
        self.pass_over()

    def pass_over(self) -> None:
        size, kind = ctypes.c_size_t(self.size), ctypes.c_int(DEVICE_TO_DEVICE)
        for _ in range(COPIES):
            self.call("cudaMemcpyAsync", self.target, self.source, size, kind, ctypes.c_void_p())
        self.call("cudaDeviceSynchronize")

    def read(self) -> dict[str, float]:
        """The fastest of a few passes, after one that brings up the clock; copied bytes count as read and written."""
        self.pass_over()
        seconds = []
        for _ in range(PASSES):
            start = perf_counter()
            self.pass_over()
            seconds.append(perf_counter() - start)
        return {"bytes": 2 * COPIES * self.size, "seconds": min(seconds)}

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.runtime, name)(*arguments)
        if status:
            error_string = self.runtime.cudaGetErrorString
            error_string.restype = ctypes.c_char_p
            raise RuntimeError(f"{name} failed with {status}: {error_string(status).decode()}")


def libcudart() -> Any:
    """CUDA's runtime, as gpt2-runtime finds it; its ProviderError if there is none."""
    from gpt2_runtime.providers.providers import choose_provider, load_onnxruntime

    choose_provider("cuda")
    return ctypes.CDLL(f"libcudart.so.{str(load_onnxruntime().cuda_version).partition('.')[0]}")


if __name__ == "__main__":
    serve(Bandwidth())
