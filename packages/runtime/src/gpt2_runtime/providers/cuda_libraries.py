"""The libraries that onnxruntime needs for CUDA: loaded, or the first one that is missing named."""

from __future__ import annotations

import ctypes
import io
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

from gpt2_runtime.errors import ProviderError

DRIVER = "install the NVIDIA driver"
PACKAGES = "pip install 'gpt2-runtime[cuda]', which brings them, or install CUDA {major} and cuDNN 9"
# The file -> whose it is, and what to do. {major} is of the CUDA that onnxruntime was built with.
LIBRARIES = {
    "libcuda.so.1": ("the driver", DRIVER),
    "libcudart.so.{major}": ("CUDA", PACKAGES),
    "libcublasLt.so.{major}": ("cuBLAS", PACKAGES),
    "libcublas.so.{major}": ("cuBLAS", PACKAGES),
    "libcurand.so.10": ("cuRAND", PACKAGES),
    "libcudnn.so.9": ("cuDNN", PACKAGES),
}


def load_cuda(onnxruntime: ModuleType, load: Callable[[str], Any] = ctypes.CDLL) -> None:
    """Loads what onnxruntime's CUDA provider is linked with, from NVIDIA's wheels or from where the system has it.

    Without this onnxruntime goes on without a GPU, and writes why to stderr.

    Args:
        onnxruntime: the module.
        load: opens a library by its name.

    Raises:
        ProviderError: a library is missing, or there is no GPU.
    """
    if sys.platform != "linux":  # the names are others there: onnxruntime looks for itself
        return
    major = str(onnxruntime.cuda_version).partition(".")[0]
    with redirect_stdout(io.StringIO()):  # it prints what is missing
        onnxruntime.preload_dlls()
    for pattern, (owner, remedy) in LIBRARIES.items():
        name = pattern.format(major=major)
        try:
            load(name)
        except OSError as error:
            reason = " ".join(str(error).split())
            problem = f"provider cuda cannot start, {name} of {owner} is not there ({reason})"
            raise ProviderError(f"{problem}; {remedy.format(major=major)}") from error
    count = ctypes.c_int()
    runtime = load(f"libcudart.so.{major}")
    status = runtime.cudaGetDeviceCount(ctypes.byref(count))
    if status or not count.value:
        runtime.cudaGetErrorString.restype = ctypes.c_char_p
        reason = runtime.cudaGetErrorString(status).decode() if status else "no device"
        raise ProviderError(f"provider cuda finds no GPU ({reason}); see what nvidia-smi lists, or pass provider='cpu'")
