"""Writes the generated parts of the documents: help texts, the demo's output, the parity table.

    python tests/readme.py            writes all of them
    python tests/readme.py --check    compares the help texts, which are the same on every machine; exit code 1 if stale

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PART = re.compile(r"(<!-- generated: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "packages").glob("*/README.md")))


def main(check: bool) -> int:
    """Writes or compares; returns the exit code."""
    stale = []
    for path in DOCUMENTS:
        before = path.read_text(encoding="utf-8")
        after = filled(before, only_help=check)
        if check and after != before:
            stale.append(str(path.relative_to(ROOT)))
        elif after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    if stale:
        print(f"stale: {', '.join(stale)}; run `tox -e readme`")
    return 1 if stale else 0


def filled(document: str, *, only_help: bool) -> str:
    """The document with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        kind, _, argument = match["name"].partition(" ")
        if only_help and kind != "help":
            return match[0]
        return f"{match[1]}{PARTS[kind](argument)}\n{match[3]}"

    return PART.sub(part, document)


def help_text(command: str) -> str:
    """What a command says of itself."""
    return _block(_output([*command.split(), "--help"]))


def demo(_: str) -> str:
    """The main job on the demo model: both commands, and what they print."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo-folder"
        commands = (
            ["gpt2-export", "make", "demo", str(out)],
            [
                "gpt2-runtime",
                "generate",
                str(out),
                "ROMEO:",
                *["--max-new-tokens", "120", "--temperature", "0.8", "--seed", "1"],
            ],
        )
        shown = [f"$ {' '.join(command)}\n{_output(command)}" for command in commands]
    return _block("\n".join(shown).replace(folder + "/", "").strip())


def parity(_: str) -> str:
    """What `make` found on checkpoints of several shapes, the full size among them."""
    lines = [
        "| checkpoint | parameters | onnxruntime: largest logit difference | transformers | top-1 | greedy tokens |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for label, arguments in CHECKPOINTS.items():
            source = _random_checkpoint(Path(folder) / "source", arguments) if arguments is not None else "demo"
            out = Path(folder) / "out"
            _output(["gpt2-export", "make", source, str(out), "--force"])
            found = json.loads(_output(["gpt2-export", "inspect", str(out), "--json"]))
            backends = found["parity"]["backends"]
            onnx = next(figures for name, figures in backends.items() if name.startswith("onnxruntime"))
            theirs = next(figures for name, figures in backends.items() if name.startswith("transformers"))
            lines.append(
                f"| {label} | {found['parameters']:,} | {onnx['max_logit_difference']:.1e} | "
                f"{theirs['max_logit_difference']:.1e} | {onnx['top1_agreement']:.2%} | "
                f"{onnx['greedy_agreement']} of {onnx['greedy_tokens']} |"
            )
    used = {name: found["versions"][name] for name in ("torch", "onnxruntime", "transformers", "onnxscript")}
    return "\n".join([*lines, "", "With " + ", ".join(f"{name} {version}" for name, version in used.items()) + "."])


PARTS: dict[str, Callable[[str], str]] = {"help": help_text, "demo": demo, "parity": parity}

# The demo is trained; the others have random weights from transformers' own initialiser.
CHECKPOINTS: dict[str, dict[str, object] | None] = {
    "demo, trained": None,
    "gpt2 (124M), random": {},
    "gpt2, scaled by layer, upcast": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "gpt2, untied head": {"tie_word_embeddings": False},
    "distilgpt2, random": {"n_layer": 6},
    "gpt2-medium, random": {"n_layer": 24, "n_embd": 1024, "n_head": 16},
}


def _random_checkpoint(folder: Path, arguments: dict[str, object]) -> str:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**arguments)).save_pretrained(folder)
    return str(folder)


def _output(command: list[str]) -> str:
    environment = os.environ | {
        "COLUMNS": "100",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def _block(text: str) -> str:
    return f"```\n{text.strip()}\n```"


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
