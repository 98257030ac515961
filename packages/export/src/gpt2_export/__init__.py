"""A GPT-2 checkpoint -> one folder, verified, that transformers and ONNX runtimes open.

pipeline.py     the steps, alone and in one
weights/        the safetensors file and the places of tensors in it
precision/      fp16, int8, int4
freeze/         checkpoint -> frozen folder: weights, tokenizer, settings
graphs/         network -> ONNX, whatever the kind
folder/         manifest.json, and how a folder is changed whole or not at all
verification/   what "verified" means: truth, limits, backends, quality
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

# Where each public name lives; loaded on first use, so that the command's --help does not wait for torch.
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
    found = globals()[name] = getattr(importlib.import_module(f"gpt2_export.{HOMES[name]}"), name)
    return found
