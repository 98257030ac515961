"""Makes the folders that `test_greedy_on_gpu.py` compares, in float32 and float16, unless they exist.

The argument is the folder to make them in.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

NAMES = ("demo", "random")
PRECISIONS = ("fp32", "fp16")


def main(place: Path) -> None:
    """The program. Its imports are local: they are not installed where the folders are compared."""
    import torch
    from gpt2_export import make
    from transformers import GPT2Config, GPT2LMHeadModel

    place.mkdir(parents=True, exist_ok=True)
    if not (place / "demo").exists():
        make("demo", place / "demo", precision=PRECISIONS)
    if not (place / "random").exists():
        torch.manual_seed(0)
        with TemporaryDirectory() as source:
            GPT2LMHeadModel(GPT2Config()).save_pretrained(source)
            make(source, place / "random", precision=PRECISIONS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
