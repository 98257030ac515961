"""torch's compiler, which is imported here and compiles nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def no_compiler_folder() -> Iterator[None]:
    """Keeps torch from making a folder for compiled code in the temporary directory.

    It does so when its compiler is imported, as the first tensor without data and each export do, even where nothing is
    compiled. In here it is shown a folder that exists, its own; what others compile afterwards goes where it always
    goes. A folder that the environment names is left to torch.

    >>> with no_compiler_folder(), torch.device("meta"):
    ...     torch.zeros(10**6, 10**6).shape
    torch.Size([1000000, 1000000])
    """
    if FOLDER in os.environ:
        yield
        return
    os.environ[FOLDER] = os.path.dirname(torch.__file__)  # noqa: PTH120 - a text, as the environment has it
    try:
        yield
    finally:
        del os.environ[FOLDER]
