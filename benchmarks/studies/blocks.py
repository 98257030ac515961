"""The quality and size of each block size, rounding and head precision, quantizing only the weights.

    python benchmarks/studies/blocks.py FOLDER
    python benchmarks/studies/blocks.py FOLDER --text shakespeare.txt

Requires only gpt2-export. The scratch network's matrices are replaced by their dequantized values; activations stay
float32, so a figure is slightly below what `gpt2-export quantize` measures for the graphs.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gpt2_export.precision import blocks
from gpt2_export.precision.nbits import is_matrix
from gpt2_export.verification.metrics import kl
from gpt2_model import GPT2
from tokenizers import Tokenizer

WINDOW = 256


@dataclass(frozen=True, kw_only=True)
class Way:
    """Bits and block of the layers' matrices and of the head; plain rounding, or the scale with the least error."""

    bits: int
    block: int
    head_bits: int = 8
    head_block: int = 128
    plain: bool = False

    def __str__(self) -> str:
        rounding = ", plain" if self.plain and self.bits == 4 else ""
        return f"{self.bits} bits by {self.block}{rounding}; head {self.head_bits} by {self.head_block}"

    def bytes(self, layers: int, head: int) -> float:
        """The bytes for this many numbers in the layers and in the head; a scale has 4."""
        return layers * (self.bits / 8 + 4 / self.block) + head * (self.head_bits / 8 + 4 / self.head_block)


WAYS = (
    *(Way(bits=8, block=block, head_block=block) for block in (32, 64, 128)),
    Way(bits=8, block=64),
    *(Way(bits=4, block=block, plain=plain) for block in (32, 64, 128) for plain in (True, False)),
    Way(bits=4, block=64, head_bits=4, head_block=64),
)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a made or frozen folder")
    parser.add_argument("--text", type=Path, help="a text, read with the folder's tokenizer (default: random tokens)")
    parser.add_argument("--tokens", type=int, default=1024, help="of the text, from its end (default: 1024)")
    options = parser.parse_args()
    model = GPT2.from_pretrained(options.folder)
    ids = read(options, model)
    before = logits(model, ids)
    originals = {name: parameter.clone() for name, parameter in model.named_parameters() if is_matrix(name)}
    layers = sum(weight.numel() for name, weight in originals.items() if name.startswith("h."))
    head = sum(weight.numel() for name, weight in originals.items()) - layers
    whole = 4 * (layers + head)
    print(f"{'':<44}{'of fp32':>9}{'mean KL':>10}{'max KL':>10}{'perplexity, %':>15}")
    for way in WAYS:
        replace(model, originals, way)
        after = logits(model, ids)
        losses = kl(before, after)
        change = f"{100 * np.expm1(loss(after, ids) - loss(before, ids)):+.3f}" if options.text else "-"
        share = way.bytes(layers, head) / whole
        print(f"{way!s:<44}{share:>9.3f}{losses.mean():>10.1e}{losses.max():>10.1e}{change:>15}", flush=True)


def read(options: argparse.Namespace, model: GPT2) -> torch.Tensor:
    """Token ids (B, T)."""
    width = min(WINDOW, model.config.n_positions)
    if options.text is None:
        rng = np.random.default_rng(0)
        return torch.from_numpy(rng.integers(model.config.vocab_size, size=(1, width)))
    encoder = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    ids = encoder.encode(options.text.read_text(encoding="utf-8")).ids[-options.tokens :]
    return torch.tensor(ids[: len(ids) // width * width]).reshape(-1, width)


@torch.no_grad()
def logits(model: GPT2, ids: torch.Tensor) -> np.ndarray:
    """(B, T) -> (B * T, V)."""
    return model(ids)[0].flatten(0, 1).numpy()


def loss(logits: np.ndarray, ids: torch.Tensor) -> float:
    """Nats per token."""
    B, T = ids.shape
    predicted = torch.from_numpy(logits).unflatten(0, (B, T))[:, :-1]
    return float(torch.nn.functional.cross_entropy(predicted.flatten(0, 1).double(), ids[:, 1:].flatten()))


@torch.no_grad()
def replace(model: GPT2, originals: dict[str, torch.Tensor], way: Way) -> None:
    """Replaces each matrix by its dequantized values."""
    searched = blocks.FACTORS
    blocks.FACTORS = searched[:0] if way.plain else searched
    for name, parameter in model.named_parameters():
        if name not in originals:
            continue
        weight = originals[name].numpy()
        bits, largest = (way.bits, way.block) if name.startswith("h.") else (way.head_bits, way.head_block)
        block = blocks.fitting(weight.shape[1], largest)
        if block is None:
            raise SystemExit(f"{name} has rows of {weight.shape[1]} numbers, which no block divides")
        made = blocks.quantize(weight, bits=bits, block=block)
        parameter.copy_(torch.from_numpy(blocks.dequantize(*made, bits=bits)))
    blocks.FACTORS = searched


if __name__ == "__main__":
    main()
