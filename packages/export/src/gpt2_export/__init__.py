"""A GPT-2 checkpoint -> one folder, verified, that transformers and ONNX runtimes open.

steps.py        the steps, alone and in one
freeze.py       checkpoint -> frozen folder          tensorfile.py   the safetensors file, written as a stream
graph.py        network -> ONNX, whatever the kind   tokenizer.py    the tokenizer's files, completed
portable.py     the graph that everything opens      genai.py        genai_config.json
serving.py      the graph that gpt2-runtime opens    manifest.py     manifest.json
explaining.py   the graph that shows what goes on    bundle.py       a folder appears whole or not at all
                                                     journal.py      a folder is changed at once
                                                     temporary.py    folders that are provably ours
                                                     plainfile.py    small files, read safely
                                                     schema.py       what a document must hold
network.py      config.json, held to the weights     admission.py    a folder's graph, before it is run
kinds.py        all of them                          inspection.py   what is in a folder
initializers.py weights as places in the file        progress.py     bars and lines
verify.py       the folder's parity report           errors.py       what can go wrong
truth.py        the network in float64               tolerance.py    how far float32 may be from it
stress.py       weights that show every mistake
sweep.py        the shapes that are compared         cli.py          the command
entry.py        where it starts                interruption.py Ctrl-C and TERM
backends.py     torch, transformers, onnxruntime     interior.py     attention and layers, compared
telemetry.py    onnxruntime, loaded silently

precision.py    fp16, int8, int4                     quality.py      what a precision loses, and the limit
half.py         fp16: casts                          calibration.py  the texts that it is measured on
nbits.py        int8 and int4: matrices in blocks    activations.py  whether float16 can hold them
blocks.py       numbers in 8 or 4 bits               smoothing.py    large channels, moved into the weights
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2_export.errors import (
        ExportError,
        FolderError,
        GraphError,
        HubError,
        PrecisionError,
        QualityError,
        StorageError,
        VerificationError,
    )
    from gpt2_export.inspection import inspect
    from gpt2_export.repository import push
    from gpt2_export.steps import add_graph, freeze_only, make, quantize, verify_folder

__version__ = "0.1.0"

# Where each public name lives; loaded on first use, so that the command's --help does not wait for torch.
HOMES = {
    "make": "steps",
    "freeze_only": "steps",
    "add_graph": "steps",
    "verify_folder": "steps",
    "quantize": "steps",
    "inspect": "inspection",
    "push": "repository",
    "ExportError": "errors",
    "FolderError": "errors",
    "StorageError": "errors",
    "GraphError": "errors",
    "HubError": "errors",
    "VerificationError": "errors",
    "PrecisionError": "errors",
    "QualityError": "errors",
}
__all__ = [
    "make",
    "freeze_only",
    "add_graph",
    "verify_folder",
    "quantize",
    "inspect",
    "push",
    "ExportError",
    "FolderError",
    "StorageError",
    "GraphError",
    "HubError",
    "VerificationError",
    "PrecisionError",
    "QualityError",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"gpt2_export.{HOMES[name]}"), name)
    return found
