"""Stands for libcudart, where a device's memory is the host's. It copies as CUDA's own documentation says."""

import ctypes


class FakeCudaRuntime:
    """Its functions copy at once, and count what no one has waited for.

    Attributes:
        started: copies since the last wait.
        status: what every function returns, 0 where it went well.
    """

    def __init__(self):
        self.started = 0
        self.status = 0

    def cudaMemcpy3D(self, reference):  # noqa: N802
        asked = reference._obj
        width, height, depth = asked.extent.width, asked.extent.height, asked.extent.depth
        assert asked.kind in (1, 2, 3)
        for pointer in (asked.srcPtr, asked.dstPtr):
            assert pointer.pitch >= width
            assert pointer.ysize >= height
        for layer in range(depth):
            for row in range(height):
                into, source = (
                    pointer.ptr + (layer * pointer.ysize + row) * pointer.pitch
                    for pointer in (asked.dstPtr, asked.srcPtr)
                )
                ctypes.memmove(into, source, width)
        self.started += 1
        return self.status

    def cudaMemcpy(self, into, source, size, kind):  # noqa: N802
        assert kind in (1, 2, 3)
        ctypes.memmove(into, source, size.value)
        self.started += 1
        return self.status

    def cudaMemset(self, address, value, size):  # noqa: N802
        ctypes.memset(address, value, size.value)
        self.started += 1
        return self.status

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        self.started = 0
        return self.status

    @staticmethod
    def cudaGetErrorString(status):  # noqa: N802
        return b"out of memory" if status == 2 else b"unknown"
