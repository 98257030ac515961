"""Writes the benchmark's checkpoint: GPT-2 of 124M parameters with random weights, the same for every runtime.

python checkpoint.py TARGET
"""

import sys
from pathlib import Path

# Wider than GPT-2's own 0.02, with which greedy text soon repeats one token forever: at this std a low-bit cache
# already shows in the ids.
INITIALIZER_RANGE = 0.05
SEED = 0


def main(target: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(SEED)
    GPT2LMHeadModel(GPT2Config(initializer_range=INITIALIZER_RANGE)).save_pretrained(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
