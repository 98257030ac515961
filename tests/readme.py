"""Writes the generated parts of the documents: help texts, the demo's output, sizes, tables of parity, bench, interop.

    python tests/readme.py            writes all of them python tests/readme.py interop    writes the parts of that name
    python tests/readme.py --check    checks the parts that are the same on every machine: help texts, and the tables
    from
                                      `tox -e bench` and `tox -m interop`; exit code 1 if stale

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from gpt2_runtime.diagnostics import promise
from interop.consumers import CONSUMERS, RESULTS

ROOT = Path(__file__).parent.parent
PART = re.compile(r"(<!-- generated: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "packages").glob("*/README.md")))


def main(arguments: list[str]) -> int:
    """Writes or compares; returns the exit code."""
    check = "--check" in arguments
    kinds = CERTAIN if check else arguments or PARTS
    stale = []
    for path in DOCUMENTS:
        before = path.read_text(encoding="utf-8")
        after = filled(before, kinds)
        if check and after != before:
            stale.append(str(path.relative_to(ROOT)))
        elif after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    if stale:
        print(f"stale: {', '.join(stale)}; run `tox -e readme`")
    return 1 if stale else 0


def filled(document: str, kinds: Collection[str]) -> str:
    """The document with its generated parts of these kinds updated."""

    def part(match: re.Match[str]) -> str:
        kind, _, argument = match["name"].partition(" ")
        if kind not in kinds:
            return match[0]
        return f"{match[1]}{PARTS[kind](argument)}\n{match[3]}"

    return PART.sub(part, document)


def help_text(command: str) -> str:
    """A command's help text."""
    return _block(_output([*command.split(), "--help"]))


def demo(_: str) -> str:
    """The main job on the demo model: both commands and their output."""
    sampling = "--max-new-tokens 120 --temperature 0.7 --top-k 20 --seed 1"
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/demo-folder"
        commands = (
            ["gpt2-export", "make", "demo", out],
            ["gpt2-runtime", "generate", out, "ROMEO:", *sampling.split()],
        )
        shown = [f"$ {' '.join(command)}\n{_output(command)}" for command in commands]
    return _block("\n".join(shown).replace(folder + "/", "").strip())


def parity(_: str) -> str:
    """The parity that `make` measures on checkpoints of several shapes, including full size."""
    lines = [
        "| checkpoint | parameters | largest logit error: portable graph | serving graph | transformers "
        "| torch float32 | limit | top-1 | greedy tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for label, checkpoint in CHECKPOINTS.items():
            source = "demo" if checkpoint is None else _write(checkpoint, Path(folder) / "source")
            out = Path(folder) / "out"
            _output(["gpt2-export", "make", source, str(out), "--force"])
            report = json.loads(_output(["gpt2-export", "inspect", str(out), "--json"]))
            backends = report["parity"]["backends"]
            portable, serving = (
                next(figures for name, figures in backends.items() if name.endswith(f", {kind}"))
                for kind in ("portable", "serving")
            )
            theirs = next(figures for name, figures in backends.items() if name.startswith("transformers"))
            differences = [f"{figures['max_logit_difference']:.1e}" for figures in (portable, serving, theirs)]
            differences += [f"{report['parity'][name]:.1e}" for name in ("float32_error", "tolerance")]
            # Both graphs must agree: the worse one is shown.
            top1 = min(figures["top1_agreement"] for figures in (portable, serving))
            greedy = min(figures["greedy_agreement"] for figures in (portable, serving))
            lines.append(
                f"| {label} | {report['parameters']:,} | {' | '.join(differences)} | {top1:.2%} | "
                f"{greedy} of {portable['greedy_tokens']} |"
            )
    used = {name: report["versions"][name] for name in ("torch", "onnxruntime", "transformers", "onnxscript")}
    return "\n".join([*lines, "", "With " + ", ".join(f"{name} {version}" for name, version in used.items()) + "."])


def precisions(_: str) -> str:
    """The size and loss of each precision, for the demo and at full size."""
    lines = [
        "| checkpoint | precision | size, of fp32 | perplexity | KL, mean | KL, largest | top-1 | greedy tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for label in ("the demo, trained", "gpt2 (124M)"):
            checkpoint = CHECKPOINTS[label]
            source = "demo" if checkpoint is None else _write(checkpoint, Path(folder) / "source")
            out = Path(folder) / "out"
            _output(["gpt2-export", "make", source, str(out), "--force", "--precision", "fp32,fp16,int8,int4"])
            report = json.loads(_output(["gpt2-export", "inspect", str(out), "--json"]))
            for precision, quality in report["quality"].items():
                # The graph and text that lose most.
                figures = max(
                    (text for texts in quality["graphs"].values() for text in texts.values()),
                    key=lambda figures: figures["mean_kl"],
                )
                lines.append(
                    f"| {label} | {precision} | {report['precisions'][precision]['of_fp32']:.3f} | "
                    f"{figures['ppl_increase']:+.2g} % | {figures['mean_kl']:.1e} | {figures['max_kl']:.1e} | "
                    f"{figures['top1_agreement']:.1%} | {figures['greedy_agreement']} of {figures['greedy_tokens']} |"
                )
    return "\n".join(lines)


def graphs(_: str) -> str:
    """The sizes of a full-size network's graphs; their weights are elsewhere."""
    label, network = "gpt2 (124M)", CHECKPOINTS["gpt2 (124M)"]
    assert network is not None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        _output(["gpt2-export", "freeze", _write(network, Path(folder) / "source"), str(out)])
        _output(["gpt2-export", "onnx", str(out)])
        kinds = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["graphs"]["fp32"]
        sizes = [f"{name} {(out / file).stat().st_size / 1000:.0f} KB" for name, file in kinds.items()]
    return f"Size of the graphs of {label}: {', '.join(sizes)}."


def benchmark(_: str) -> str:
    """The results of the last `tox -e bench`; this measures nothing."""
    return (ROOT / "benchmarks/results/table.md").read_text(encoding="utf-8").strip()


def interop(_: str) -> str:
    """The versions that last passed `tox -m interop`; this opens nothing."""
    lines = ["| opened by | what is compared | last passed with |", "|---|---|---|"]
    for name in CONSUMERS:
        result = RESULTS / f"{name}.json"
        if not result.exists():
            continue  # has never passed
        docstring = ast.get_docstring(ast.parse((RESULTS.parent / f"test_{name}.py").read_text(encoding="utf-8"))) or ""
        opened_by, compared = docstring.removesuffix(".").replace("\n", " ").split(": ", 1)
        report = json.loads(result.read_text(encoding="utf-8"))
        versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
        lines.append(f"| {opened_by} | {compared} | {versions} ({report['date']}) |")
    return "\n".join(lines)


def equalities(_: str) -> str:
    """The runtime's table of what equals what."""
    return "\n".join(promise.table())


PARTS: dict[str, Callable[[str], str]] = {
    "help": help_text,
    "demo": demo,
    "parity": parity,
    "precisions": precisions,
    "graphs": graphs,
    "bench": benchmark,
    "interop": interop,
    "equalities": equalities,
}
CERTAIN = ("help", "bench", "interop", "equalities")  # the same on every machine


@dataclass(frozen=True, kw_only=True)
class Random:
    """A checkpoint with random weights from transformers' initialiser: its config and file layout."""

    config: dict[str, object] = field(default_factory=dict)
    published: bool = False  # like openai-community/gpt2: no prefix, causal masks saved as buffers
    half: bool = False
    max_shard_size: str = "50GB"


CHECKPOINTS: dict[str, Random | None] = {
    "the demo, trained": None,
    "gpt2 (124M)": Random(),
    "gpt2, names without prefix, mask buffers": Random(published=True),
    "gpt2, in shards": Random(max_shard_size="200MB"),
    "gpt2, float16 file": Random(half=True),
    "gpt2, untied head": Random(config={"tie_word_embeddings": False}),
    "gpt2, scaled by layer, upcast attention": Random(
        config={"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}
    ),
    "gpt2, unscaled attention, exact GELU, n_inner 1536": Random(
        config={"scale_attn_weights": False, "activation_function": "gelu", "n_inner": 1536}
    ),
    "distilgpt2 (82M)": Random(config={"n_layer": 6}),
    "gpt2-medium (355M)": Random(config={"n_layer": 24, "n_embd": 1024, "n_head": 16}),
    "gpt2-medium, untied head": Random(
        config={"n_layer": 24, "n_embd": 1024, "n_head": 16, "tie_word_embeddings": False}
    ),
}


def _write(checkpoint: Random, folder: Path) -> str:
    import torch
    from checkpoints import rewrite
    from transformers import GPT2Config, GPT2LMHeadModel

    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(**checkpoint.config))
    (network.half() if checkpoint.half else network).save_pretrained(folder, max_shard_size=checkpoint.max_shard_size)
    if checkpoint.published:
        masks = {
            f"h.{layer}.attn.bias": torch.ones(1, 1, network.config.n_positions, network.config.n_positions).tril()
            for layer in range(network.config.n_layer)
        }
        rewrite(folder, lambda tensors: {n.removeprefix("transformer."): t for n, t in tensors.items()} | masks)
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
    sys.exit(main(sys.argv[1:]))
