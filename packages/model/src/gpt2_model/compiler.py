"""Keeps torch's compiler, which is imported but never used, from making its cache folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def no_compiler_folder() -> Iterator[None]:
    """Keeps torch from making a folder for compiled code in the temporary directory.

    Importing the compiler makes that folder, and the first meta tensor and every export import it, even if nothing is
    compiled. Inside this context torch is pointed at its own package folder, which exists; later compilation is not
    affected. A folder named in the environment is left alone.

    >>> with no_compiler_folder(), torch.device("meta"):
    ...     torch.zeros(10**6, 10**6).shape
    torch.Size([1000000, 1000000])
    """
    if FOLDER in os.environ:
        yield
        return
    os.environ[FOLDER] = os.path.dirname(torch.__file__)  # noqa: PTH120 - os.environ takes a string
    try:
        yield
    finally:
        del os.environ[FOLDER]
