"""A GPT-2 checkpoint -> one verified folder that transformers and ONNX runtimes open.

pipeline.py     the steps, one by one and all together
weights/        the safetensors file and where each tensor is in it
precision/      fp16, int8, int4
freeze/         checkpoint -> frozen folder: weights, tokenizer, settings
graphs/         network -> ONNX graphs of every kind
folder/         manifest.json, and all-or-nothing changes of a folder
verification/   what "verified" means: reference, limits, backends, quality
hub/            the model card, and the push
cli/            the command
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2_export.errors import (
        FolderError,
        GPT2ExportError,
        GraphError,
        HubError,
        PrecisionError,
        QualityError,
        StorageError,
        VerificationError,
    )
    from gpt2_export.folder.inspection import inspect
    from gpt2_export.folder.manifest import Manifest
    from gpt2_export.hub.push import push
    from gpt2_export.pipeline import export_graphs, freeze_checkpoint, make, quantize, verify_folder

__version__ = "0.1.0"

# The module of each public name; loaded on first use, so that --help does not wait for torch.
HOMES = {
    "make": "pipeline",
    "freeze_checkpoint": "pipeline",
    "export_graphs": "pipeline",
    "verify_folder": "pipeline",
    "quantize": "pipeline",
    "inspect": "folder.inspection",
    "Manifest": "folder.manifest",
    "push": "hub.push",
    "GPT2ExportError": "errors",
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
    "freeze_checkpoint",
    "export_graphs",
    "verify_folder",
    "quantize",
    "inspect",
    "push",
    "Manifest",
    "GPT2ExportError",
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
    attribute = globals()[name] = getattr(importlib.import_module(f"gpt2_export.{HOMES[name]}"), name)
    return attribute
