"""A GPT-2 checkpoint -> one folder, verified, that transformers and ONNX runtimes open.

make.py         the four steps, alone and in one
freeze.py       checkpoint -> frozen folder          tensorfile.py   the safetensors file, written as a stream
graph.py        network -> model.onnx                tokenizer.py    the tokenizer's files, completed
verify.py       the folder's parity report           genai.py        genai_config.json
sweep.py        the shapes that are compared         manifest.py     manifest.json
backends.py     torch, transformers, onnxruntime     bundle.py       a folder appears whole or not at all
inspection.py   what is in a folder                  progress.py     bars and lines
cli.py          the command                          errors.py       what can go wrong
"""

from gpt2_export.errors import ExportError, FolderError, GraphError, StorageError, VerificationError
from gpt2_export.inspection import inspect
from gpt2_export.make import add_graph, freeze_only, make, verify_folder

__version__ = "0.1.0"
__all__ = [
    "make",
    "freeze_only",
    "add_graph",
    "verify_folder",
    "inspect",
    "ExportError",
    "FolderError",
    "StorageError",
    "GraphError",
    "VerificationError",
]
