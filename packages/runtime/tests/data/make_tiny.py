"""Makes the folder `tiny` beside this file: what gpt2-export writes for a random GPT-2 of two layers.

The runtime's tests run where there is no torch, so the folder is committed. A test of the whole project makes it again
and compares. Run it, with gpt2-export installed, when the export has changed:

    python packages/runtime/tests/data/make_tiny.py
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from gpt2_export import make
from gpt2_model import GPT2, GPT2Config
from gpt2_model.weights import stored_tensors
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer

END_OF_TEXT = "<|endoftext|>"
TEXT = """The quick brown fox jumps over the lazy dog; the dog doesn't mind, and the other dogs don't either.
She'll say they've seen it, I'd say we're here: it's 1, 2, 3 o'clock.  There are   spaces, and
\tnewlines; naïve café, señor, größe, “quotes” — and 日本語, русский, 🙂🙃👍🏽, and more of the same and the other.
"""


def main(out: Path) -> None:
    """Writes the folder."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    model = GPT2(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # random biases and norms, for zeros and ones would hide a mistake in them
            torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.3)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny"
        checkpoint.mkdir()
        save_file(stored_tensors(model), checkpoint / "model.safetensors", metadata={"format": "pt"})
        tokens = {"bos_token_id": 299, "eos_token_id": 299}
        (checkpoint / "config.json").write_text(json.dumps(config.to_hf() | tokens))
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator([TEXT], vocab_size=299, min_frequency=1, show_progress=False)
        tokenizer.save_model(str(checkpoint))
        vocab = json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8")) | {END_OF_TEXT: 299}
        (checkpoint / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        # So small and wild a network may lose what it wants.
        make(checkpoint, out, force=True, precision=["fp16", "int8", "int4"], max_ppl_increase=1000)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny")
