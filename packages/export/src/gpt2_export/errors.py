"""What can go wrong between a checkpoint and a made folder.

    GPT2ExportError                 everything below; each message says what, the value, the limit and the remedy
    ├── FolderError             a folder that exists already, or is not one that was made here, or does not fit itself
    ├── StorageError            the disk is full, or a file cannot be written
    ├── GraphError              the exported graph is not the one that the contract describes
    ├── HubError                the hub cannot be reached, or refuses what is pushed
    ├── VerificationError       the folder computes something else than its checkpoint; carries the report
    └── PrecisionError          weights that cannot be stored in fewer bits
        └── QualityError        they can, but the text would be worse than is allowed; carries the report

What is wrong with the checkpoint itself is `gpt2_model.errors.GPT2Error`.
"""

from collections.abc import Mapping
from typing import Any


class GPT2ExportError(Exception):
    """Base of every error of this package."""


class FolderError(GPT2ExportError):
    """A folder that cannot be written to, or read as a made one."""


class StorageError(GPT2ExportError):
    """The file system refuses."""


class GraphError(GPT2ExportError):
    """An exported graph that breaks the contract of inputs, outputs, operators or weights."""


class HubError(GPT2ExportError):
    """The hub cannot be reached, or refuses what is pushed."""


class VerificationError(GPT2ExportError):
    """Logits or tokens beyond tolerance; `report` has the numbers."""

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = report


class PrecisionError(GPT2ExportError):
    """A precision that the network cannot have, or that there is not."""


class QualityError(PrecisionError):
    """More is lost than is allowed; `report` has the numbers, and which layers lose most."""

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = report
