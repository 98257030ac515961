"""The errors between a checkpoint and a made folder.

    GPT2ExportError                 everything below; each message says what, the value, the limit and the remedy
    ├── FolderError             a folder that exists already, was not made by gpt2-export, or contradicts itself
    ├── StorageError            the disk is full, or a file cannot be written
    ├── GraphError              the exported graph breaks its contract
    ├── HubError                the Hub cannot be reached, or refuses the push
    ├── VerificationError       the folder does not compute the same as its checkpoint; carries the report
    └── PrecisionError          weights that cannot be stored in a precision
        └── QualityError        they can, but the quality loss exceeds the limit; carries the report

Errors in the checkpoint itself are `gpt2_model.errors.GPT2Error`.
"""

from collections.abc import Mapping
from typing import Any


class GPT2ExportError(Exception):
    """Base of this package's errors."""


class FolderError(GPT2ExportError):
    """A folder that cannot be written to, or that is not a made folder."""


class StorageError(GPT2ExportError):
    """The file system refuses: no space, no permission."""


class GraphError(GPT2ExportError):
    """An exported graph that breaks the contract of inputs, outputs, operators or weights."""


class HubError(GPT2ExportError):
    """The Hub cannot be reached, or refuses the push."""


class VerificationError(GPT2ExportError):
    """Logits or tokens beyond tolerance; `report` has the numbers."""

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = report


class PrecisionError(GPT2ExportError):
    """A precision that is unknown, or that the network cannot have."""


class QualityError(PrecisionError):
    """The loss exceeds the limit; `report` has the numbers and the layers that lose most."""

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = report
