"""README.md, the model card on the Hub: what the folder is, how it was verified, how to run it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2_model.quoting import all_escaped

from gpt2_export.folder import inspection
from gpt2_export.folder.manifest import CARD_MARK as MARK
from gpt2_export.folder.manifest import MANIFEST, Manifest, Source, parsed
from gpt2_export.freeze.freeze import WEIGHTS
from gpt2_export.freeze.tokenizer_files import IDS_ONLY
from gpt2_export.freeze.tokenizer_settings import TOKENIZER
from gpt2_export.weights import safetensors_file

TERMS = ("license", "license_name", "license_link")
TAGS = ("gpt2", "onnx", "onnxruntime", "onnxruntime-genai", "transformers.js")

WHAT = {
    "config.json": "the architecture, as transformers writes it",
    "generation_config.json": "the ids that generation starts and ends with",
    "genai_config.json": "the settings of onnxruntime-genai",
    "tokenizer.json": "the whole tokenizer",
    "tokenizer_config.json": "its settings",
    "vocab.json": "its tokens",
    "merges.txt": "its merges",
    "special_tokens_map.json": "its special tokens",
    "added_tokens.json": "its added tokens",
    "chat_template.jinja": "the template that turns a conversation into one text",
}

# Title, install command, language, program. A test runs every Python one as it is here.
RUNS = (
    (
        "transformers",
        "pip install transformers torch",
        "python",
        """
from transformers import pipeline

generator = pipeline("text-generation", model="org/name")
print(generator("The quick brown fox", max_new_tokens=20, do_sample=False)[0]["generated_text"])
""",
    ),
    (
        "gpt2-runtime",
        "pip install 'gpt2-runtime[cpu]' huggingface-hub",
        "python",
        """
from gpt2_runtime import SamplingConfig, TextGenerator
from huggingface_hub import snapshot_download

generator = TextGenerator.open(snapshot_download("org/name"))
print(generator.complete("The quick brown fox", max_new_tokens=20, sampling=SamplingConfig(temperature=0)).text)
""",
    ),
    (
        "Optimum",
        "pip install optimum-onnx[onnxruntime]",
        "python",
        """
from huggingface_hub import snapshot_download
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

folder = snapshot_download("org/name")  # all of it: the graph reads its weights from the file beside it
model, tokenizer = ORTModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt = tokenizer("The quick brown fox", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]))
""",
    ),
    (
        "onnxruntime-genai",
        "pip install onnxruntime-genai huggingface-hub",
        "python",
        """
import onnxruntime_genai
from huggingface_hub import snapshot_download

model = onnxruntime_genai.Model(snapshot_download("org/name"))
tokenizer = onnxruntime_genai.Tokenizer(model)
settings = onnxruntime_genai.GeneratorParams(model)
settings.set_search_options(max_length=30, do_sample=False)
generator = onnxruntime_genai.Generator(model, settings)
generator.append_tokens(tokenizer.encode("The quick brown fox"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
""",
    ),
    (
        "transformers.js",
        "npm install @huggingface/transformers",
        "js",
        """
import { pipeline } from "@huggingface/transformers";

const generator = await pipeline("text-generation", "org/name", {
  subfolder: "",
  dtype: "fp32",
  session_options: { externalData: [{ path: "model.safetensors", data: "model.safetensors" }] },
});
console.log(await generator("The quick brown fox", { max_new_tokens: 20, do_sample: false }));
""",
    ),
)
# For a folder without a tokenizer.
RUNS_OF_IDS = (
    (
        "transformers",
        "pip install transformers torch",
        "python",
        """
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("org/name")
print(model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=20, do_sample=False)[0].tolist())
""",
    ),
    (
        "gpt2-runtime",
        "pip install 'gpt2-runtime[cpu]' huggingface-hub",
        "python",
        """
import numpy as np
from gpt2_runtime import SamplingConfig, Session, Token, generate
from huggingface_hub import snapshot_download

session, greedy = Session.open(snapshot_download("org/name")), SamplingConfig(temperature=0)
events = generate(session, [1, 2, 3], max_new_tokens=20, sampling=greedy, rng=np.random.default_rng(0))
print([event.id for event in events if isinstance(event, Token)])
""",
    ),
)


def render(folder: Path, manifest: Manifest, repository: str, terms: Mapping[str, Any]) -> str:
    """The card of a verified folder.

    Args:
        folder: the folder's path.
        manifest: its manifest, with a parity report.
        repository: "org/name" on the Hub, for the examples.
        terms: the license fields of the source's own card; may be empty.
    """
    metadata = _metadata(manifest.source, terms)  # JSON escapes it already
    manifest = parsed(all_escaped(manifest.to_dict()))
    ids_only = any(IDS_ONLY in warning for warning in manifest.warnings)
    runs = RUNS if TOKENIZER in manifest.files and not ids_only else RUNS_OF_IDS
    parts = [
        metadata,
        f"{MARK} and replaces it with each push; remove this line to keep your own. -->",
        f"# {repository.partition('/')[2]}",
        _what(folder, manifest),
        "## How it was verified",
        "Against the scratch network in float64: logits over a sweep of shapes, and greedy tokens. A backend may be "
        "off by 1e-4, by 1e-5 of the largest logit, or by sixteen times the error of torch's own float32, whichever is "
        "most:",
        _block("\n".join(inspection.parity_lines(manifest.parity))),
        f"With {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}.",
    ]
    if manifest.quality:
        parts += [
            "## Quality loss",
            "Against the float32 graph of the same kind; for each text, the graph that loses more:",
            _block("\n".join(inspection.precision_lines(folder, manifest))),
        ]
    if manifest.warnings:
        parts += ["## Notes", "\n".join(f"- {warning}" for warning in manifest.warnings)]
    parts += ["## Files", _table(manifest), "## How to run it"]
    for title, install, language, program in runs:
        parts += [f"### {title}", _block(install), _block(program.replace("org/name", repository), language)]
    return "\n\n".join(parts) + "\n"


def is_generated(text: str) -> bool:
    """Whether a card was generated here.

    >>> is_generated("# mine"), is_generated(f"---\\n---\\n{MARK}")
    (False, True)
    """
    return MARK in text


def _metadata(source: Source, terms: Mapping[str, Any]) -> str:
    """The metadata block that the Hub reads; JSON strings and lists are valid YAML."""
    lines = [f"{name}: {json.dumps(terms[name])}" for name in TERMS if terms.get(name)]
    lines += ["library_name: transformers", "pipeline_tag: text-generation"]
    if source.revision:  # the name is a repository's, not a local folder's
        lines.append(f"base_model: {json.dumps(source.name)}")
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in TAGS), "---"])


def _what(folder: Path, manifest: Manifest) -> str:
    tensors = safetensors_file.places(folder / WEIGHTS).values()
    parameters = sum(place.nbytes for place in tensors) // safetensors_file.FLOAT32_BYTES
    # A back quote would end the code span around a name.
    name, revision = (text and text.replace("`", r"\x60") for text in (manifest.source.name, manifest.source.revision))
    link = (
        f"[{name}](https://huggingface.co/{name}/tree/{revision}) at commit `{revision}`" if revision else f"`{name}`"
    )
    return (
        f"GPT-2, {parameters:,} parameters: {link}, frozen to float32 and exported to ONNX by "
        f"{manifest.generator.name} {manifest.generator.version}. transformers, gpt2-runtime, Optimum, "
        "onnxruntime-genai and transformers.js open it as it is, and the weights are stored once: the graphs read them "
        f"from `{WEIGHTS}`."
    )


def _table(manifest: Manifest) -> str:
    what = dict(WHAT)
    what |= {file: f"the weights, {precision}" for precision, file in manifest.weights.items()}
    for precision, graphs in manifest.graphs.items():
        what |= {file: f"the {kind} graph, {precision}" for kind, file in graphs.items()}
    rows = [f"| `{name}` | {what.get(name, '')} | {file.bytes:,} |" for name, file in manifest.files.items()]
    return "\n".join(
        [
            "| file | what | bytes |",
            "|---|---|---:|",
            *rows,
            f"| `{MANIFEST}` | source, versions, the sha256 of each file, the report above | |",
        ]
    )


def _block(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip()}\n```"
