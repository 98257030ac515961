"""Fake CUDA libraries, built from `fake_cuda.c`, with which onnxruntime can open a graph without a GPU.

A CUDA function that the file does not define does nothing and returns 0.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
NAMES = ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudnn.so.9")


def provider() -> Path | None:
    """onnxruntime's CUDA provider, or None if this build has none."""
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    library = Path(spec.origin).parent / "capi/libonnxruntime_providers_cuda.so"
    return library if library.exists() else None


def why_not() -> str | None:
    """Why CUDA cannot be faked here, or None."""
    if sys.platform != "linux" or not (shutil.which("cc") and shutil.which("nm")):
        return "CUDA can be faked on Linux, with a C compiler and nm"
    return None if provider() else "this onnxruntime is not built for CUDA (install onnxruntime-gpu)"


def make(folder: Path) -> dict[str, str]:
    """Builds the libraries in a folder; returns the environment in which a process finds them."""
    library = provider()
    assert library is not None
    table = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    linked = re.findall(r" U ((?:__cuda|cuda|cublas|curand|cu)[A-Z]\w+)", table)
    looked_up = [name.decode() for name in re.findall(rb"\b(cudnn[A-Z]\w+)\0", library.read_bytes())]
    stubs = folder / "stubs.c"
    lines = [f"__attribute__((weak)) long {name}(void) {{ return 0; }}\n" for name in sorted({*linked, *looked_up})]
    stubs.write_text("".join(lines), encoding="utf-8")
    first, *others = (folder / name for name in NAMES)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", first, SOURCE, stubs], check=True)
    for other in others:
        other.symlink_to(first)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}
