"""Trains a small GPT-2 and its tokenizer on a text file, and writes them as a Hugging Face checkpoint.

    python examples/train.py shakespeare.txt checkpoint

The first 90 % of the text are for training; on the last 10 % the loss is evaluated, and the weights with the lowest one
are written. Every `--evaluate-every` steps the whole state is saved to OUT/state.pt, from which the same command
resumes after an interruption. The same text, seed and settings give the same weights on the same machine; a state of
any other is refused before anything is written.

Requires gpt2-model, click and tokenizers.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from gpt2_model import GPT2, ConfigError, GPT2Config, generate
from gpt2_model.weights import stored_tensors
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

END_OF_TEXT = "<|endoftext|>"
COUNT = click.IntRange(min=1)


@click.command()
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--vocab-size",
    default=1536,
    show_default=True,
    type=click.IntRange(min=257),  # every byte, and the end of text
    help="Size of the byte-level BPE vocabulary; a short text gives fewer.",
)
@click.option("--n-positions", default=256, show_default=True, type=click.IntRange(min=2), help="Tokens of context.")
@click.option("--n-layer", default=6, show_default=True)
@click.option("--n-head", default=6, show_default=True)
@click.option("--n-embd", default=192, show_default=True)
@click.option("--dropout", default=0.2, show_default=True)
@click.option("--batch-size", default=16, show_default=True, type=COUNT, help="Rows of n_positions tokens per step.")
@click.option("--steps", default=3000, show_default=True, type=COUNT)
@click.option("--learning-rate", default=1e-3, show_default=True, help="Peak; warmup, then cosine decay.")
@click.option("--weight-decay", default=0.1, show_default=True)
@click.option(
    "--evaluate-every", default=100, show_default=True, type=COUNT, help="Steps between evaluations, which also save."
)
@click.option("--seed", default=1, show_default=True)
def main(text: Path, out: Path, **settings: Any) -> None:
    """Trains a small GPT-2 on TEXT and writes it to OUT."""
    content = read_text(text)
    made_from = settings | {"text": hashlib.sha256(content.encode()).hexdigest()}
    state = read_state(out / "state.pt", made_from)
    steps, evaluate_every, seed = (settings[name] for name in ("steps", "evaluate_every", "seed"))
    torch.manual_seed(seed)
    split = len(content) * 9 // 10
    tokenizer = train_tokenizer(content[:split], settings["vocab_size"])
    config = network(tokenizer.get_vocab_size(), settings)
    training, held_out = (torch.tensor(tokenizer.encode(part).ids) for part in (content[:split], content[split:]))
    refuse_short(text, config.n_positions, {"first 90 %": training, "last 10 %": held_out})
    out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, out)

    model = GPT2(config)
    optimizer = adamw(model, settings["learning_rate"], settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_with_warmup(step, steps))
    rng = torch.Generator().manual_seed(seed)
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(training):,} tokens for training")
    if config.vocab_size < settings["vocab_size"]:
        click.echo(f"the text gives {config.vocab_size} tokens, fewer than --vocab-size, {settings['vocab_size']}")

    step, best = 0, math.inf
    if state is not None:
        step, best = load_state(state, model, optimizer, schedule, rng)
        click.echo(f"resuming at step {step}")
    rows = batches(training, config.n_positions, settings["batch_size"], rng)
    with click.progressbar(length=steps, label="training", item_show_func=lambda shown: shown) as bar:
        bar.update(step)
        while step < steps:
            loss = train_step(model, next(rows), optimizer, schedule)
            step += 1
            bar.update(1, f"loss {loss:.3f}, held out {best:.3f}")
            if step % evaluate_every == 0 or step == steps:
                held_out_loss = evaluate(model, held_out)
                click.echo(f"\nstep {step}: loss {loss:.4f}, held out {held_out_loss:.4f}")
                if held_out_loss < best:
                    best = held_out_loss
                    save_checkpoint(model, out)
                save_state(out, made_from, step, best, model, optimizer, schedule, rng)
    report(out, content[split:], held_out)


def read_text(path: Path) -> str:
    """The whole text; a ClickException if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path} is not UTF-8 at byte {error.start}; convert it, e.g. with iconv") from error


def train_tokenizer(text: str, vocab_size: int) -> ByteLevelBPETokenizer:
    """A byte-level BPE of at most `vocab_size` tokens; the end-of-text token comes last, as in GPT-2's own."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text], vocab_size=vocab_size - 1, min_frequency=2, show_progress=False)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def save_tokenizer(tokenizer: ByteLevelBPETokenizer, out: Path) -> None:
    """Writes GPT-2's vocab.json and merges.txt, and tokenizer.json."""
    tokenizer.save_model(str(out))
    end = {END_OF_TEXT: tokenizer.token_to_id(END_OF_TEXT)}  # the library leaves it out
    vocab = json.loads((out / "vocab.json").read_text(encoding="utf-8")) | end
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    tokenizer.save(str(out / "tokenizer.json"))


def network(vocab_size: int, settings: Mapping[str, Any]) -> GPT2Config:
    """The network of these settings; a ClickException if they are invalid."""
    try:
        return GPT2Config(
            vocab_size=vocab_size,
            **{name: settings[name] for name in ("n_positions", "n_layer", "n_head", "n_embd")},
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), settings["dropout"]),
        )
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def refuse_short(text: Path, n_positions: int, parts: Mapping[str, Tensor]) -> None:
    """Raises if a part is not longer than one window: `batches` and `evaluate` both need one token more."""
    for name, tokens in parts.items():
        if len(tokens) <= n_positions:
            raise click.ClickException(
                f"the {name} of {text} are {len(tokens)} tokens, but must be more than --n-positions, {n_positions}; "
                "use a longer text or a smaller --n-positions"
            )


def adamw(model: GPT2, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Weight decay on matrices only: biases and norm gains need not be small."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))


def cosine_with_warmup(step: int, steps: int, warmup: int = 100, floor: float = 0.05) -> float:
    """The factor on the learning rate."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def batches(tokens: Tensor, length: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Rows (B, T) from random places in the text, forever."""
    while True:
        starts = torch.randint(len(tokens) - length, (batch_size,), generator=rng)
        yield torch.stack([tokens[start : start + length] for start in starts])


def train_step(
    model: GPT2, input_ids: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> float:
    """One step on (B, T) ids; returns the loss in nats per token."""
    model.train()
    loss = model.loss(input_ids)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    return loss.item()


@torch.no_grad()
def evaluate(model: GPT2, tokens: Tensor) -> float:
    """Mean loss in nats per token over the whole text, in independent windows."""
    model.eval()
    windows = tokens.split(model.config.n_positions)
    counted = [(model.loss(window[None]).item() * (len(window) - 1), len(window) - 1) for window in windows[:-1]]
    return sum(loss for loss, _ in counted) / sum(count for _, count in counted)


def save_checkpoint(model: GPT2, out: Path) -> None:
    """Writes the weights in half precision, which halves the file without a measurable loss."""
    halves = {name: tensor.half() for name, tensor in stored_tensors(model).items()}
    save_file(halves, out / "model.safetensors", metadata={"format": "pt"})
    end = model.config.vocab_size - 1
    tokens = {"bos_token_id": end, "eos_token_id": end}
    write_json(out / "config.json", model.config.to_hf() | tokens | {"dtype": "float16"})
    write_json(out / "generation_config.json", tokens)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": model.config.n_positions}
    write_json(out / "tokenizer_config.json", settings | special | {"add_prefix_space": False})


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def save_state(out: Path, made_from: Mapping[str, Any], step: int, best: float, *parts: Any) -> None:
    """Saves everything needed to resume exactly; replaced atomically, never half written."""
    states = [part.get_state() if isinstance(part, torch.Generator) else part.state_dict() for part in parts]
    state = {"step": step, "best": best, "parts": states, "dropout": torch.get_rng_state(), "made_from": made_from}
    torch.save(state, out / "state.tmp")
    (out / "state.tmp").replace(out / "state.pt")


def read_state(path: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The saved state, or None; a ClickException if it belongs to another text or other settings."""
    if not path.exists():
        return None
    remedy = "remove it to start over, or choose another OUT"
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        before = dict(state["made_from"])
    except Exception as error:  # the unpickler may raise anything
        raise click.ClickException(f"{path} is damaged, or was not written by this version; {remedy}") from error
    other = [name for name, value in made_from.items() if before.get(name) != value]
    if "text" in other:
        raise click.ClickException(f"{path} is from another text; {remedy}")
    if other:
        settings = ", ".join(f"--{name.replace('_', '-')} {before.get(name)}, not {made_from[name]}" for name in other)
        raise click.ClickException(f"{path} was made with {settings}; use that, {remedy}")
    return state


def load_state(state: Mapping[str, Any], *parts: Any) -> tuple[int, float]:
    """Restores a saved state; returns the step and the lowest loss so far."""
    for part, saved in zip(parts, state["parts"], strict=True):
        part.set_state(saved) if isinstance(part, torch.Generator) else part.load_state_dict(saved)
    torch.set_rng_state(state["dropout"])
    return state["step"], state["best"]


def report(out: Path, text: str, held_out: Tensor) -> None:
    """Prints the model card's figures, measured on the written file itself."""
    model = GPT2.from_pretrained(out)
    loss = evaluate(model, held_out)
    per_byte = loss * len(held_out) / len(text.encode())
    click.echo(
        f"held out: {loss:.4f} nats per token, perplexity {math.exp(loss):.2f}, "
        f"{per_byte / math.log(2):.3f} bits per byte"
    )
    tokenizer = ByteLevelBPETokenizer(str(out / "vocab.json"), str(out / "merges.txt"))
    prompt = tokenizer.encode("ROMEO:").ids
    rng = torch.Generator().manual_seed(1)
    sample = generate(model, prompt, max_new_tokens=200, temperature=0.8, top_p=0.95, generator=rng)
    click.echo(tokenizer.decode([*prompt, *sample]))


if __name__ == "__main__":
    main()
