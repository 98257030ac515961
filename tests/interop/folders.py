"""Makes the folders that the consumers open, and expected.json: the answers of transformers and the runtime.

    python tests/interop/folders.py PLACE

Does nothing if PLACE is up to date with its sources.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
RUNTIME_DATA = ROOT / "packages/runtime/tests/data"
CHECKPOINT = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
EXPECTED = "expected.json"  # written last: without it everything is made again

TOKENS = 24
BEAMS = 3
# Prompts of different lengths; each must fit the tiny model's context of 64 together with its continuation.
PROMPTS = ("The", "She'll say they've seen it", "the dog mind", "quick brown fox", "O", "  1, 2")
# Float32 runtimes were observed to differ by 2e-5: no compared token may be decided by so small a margin.
MARGIN = 1e-3


def main(place: Path) -> None:
    """Makes what is missing or stale."""
    sources = digest(made_of())
    if (place / EXPECTED).is_file() and json.loads((place / EXPECTED).read_text())["sources"] == sources:
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    from gpt2_export import make

    with TemporaryDirectory() as source:
        write_random(Path(source))
        make(source, place / "tiny")
    make("demo", place / "demo")
    folders = {name: expected(place / name) for name in ("tiny", "demo")}
    if not any(folder["stopped"] for folder in folders.values()):
        raise AssertionError("no continuation reaches the end-of-text token, so stopping is not tested")
    (place / EXPECTED).write_text(json.dumps({"sources": sources, "folders": folders}))


def made_of() -> list[Path]:
    """The files that the result depends on."""
    sources = [path for path in (ROOT / "packages").glob("*/src/**/*") if path.is_file()]
    own = [Path(__file__), ROOT / "constraints.txt", RUNTIME_DATA / "hard_texts.json"]
    tiny = [RUNTIME_DATA / "tiny" / name for name in CHECKPOINT]
    return sorted(path for path in sources if "__pycache__" not in path.parts) + own + tiny


def digest(files: Iterable[Path]) -> str:
    """The digest of the files' paths and contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def write_random(folder: Path) -> None:
    """The checkpoint of the runtime's tests, weights of std 0.3, but with texts that reach the end token.

    It has no tokenizer.json, so that the consumers read the one written by export.
    """
    from safetensors.torch import load_file, save_file

    for name in CHECKPOINT:
        shutil.copyfile(RUNTIME_DATA / "tiny" / name, folder / name)
    tensors = load_file(RUNTIME_DATA / "tiny/model.safetensors")
    end = json.loads((folder / "config.json").read_text())["eos_token_id"]
    tensors["transformer.wte.weight"][end] *= 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def expected(folder: Path) -> dict[str, Any]:
    """Greedy and beam-searched continuations by transformers, in float32; tokens of the hard texts by the runtime."""
    from gpt2_runtime import Tokenizer
    from transformers import GPT2LMHeadModel

    tokenizer = Tokenizer.open(folder)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    end = model.generation_config.eos_token_id
    texts = [entry["text"] for entry in json.loads((RUNTIME_DATA / "hard_texts.json").read_text())]
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    greedy = [continuation(model, prompt) for prompt in prompts]
    if any(end in new_ids for new_ids in greedy):
        raise AssertionError(f"{folder.name}: a prompt's continuation ends early; use another prompt")
    starts = [[token] for token in range(model.config.vocab_size)]
    return {
        "prompts": prompts,
        "greedy": greedy,
        "beams": [beam_search(model, prompt) for prompt in prompts],
        "stopped": stopped(model, starts, end),
        "texts": texts,
        "tokens": [tokenizer.encode(text) for text in texts],
    }


def continuation(model: Any, prompt: list[int]) -> list[int]:
    """The greedy tokens, each chosen by a clear margin."""
    import torch

    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=TOKENS,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    first, second = torch.cat(output.logits).topk(2).values.unbind(-1)
    if (first - second).min() < MARGIN:
        raise AssertionError(
            f"the tokens after {prompt} are decided by {(first - second).min():.1e}; use another prompt"
        )
    return [int(token) for token in output.sequences[0, len(prompt) :]]


def beam_search(model: Any, prompt: list[int]) -> list[int]:
    """The best beam, checked to be the same in float64, so that rounding decides none of it."""
    import torch

    def searched(network: Any) -> list[int]:
        ids = torch.tensor([prompt])
        output = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=BEAMS,
            max_new_tokens=TOKENS,
            pad_token_id=0,
        )
        return [int(token) for token in output[0, len(prompt) :]]

    output = searched(model.float())
    exact = searched(model.double())
    model.float()
    if output != exact:
        raise AssertionError(f"the beams after {prompt} are decided by rounding; use another prompt")
    return output


def stopped(model: Any, starts: list[list[int]], end: int) -> list[dict[str, list[int]]]:
    """One or two prompts whose continuation reaches the end-of-text token, but not at once."""
    import torch

    ids = torch.tensor(starts)
    rows = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS, pad_token_id=end
    )
    early = [row for row in rows.tolist() if row[1] != end and row[2] != end and end in row[3:-1]]
    return [{"prompt": row[:1], "new_ids": continuation(model, row[:1])} for row in early[:2]]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
