"""The errors between a checkpoint and a running model.

    GPT2Error                   everything below; each message says what, the value, the limit and the remedy
    ├── ConfigError             a field of config.json: unknown, out of range, or arithmetic that is not implemented
    └── CheckpointError         something about the source of the weights
        ├── SourceError         no such folder or repository, no network, or no weights in a format that is read
        ├── WeightFileError     a weight file that cannot be read: truncated, malicious, a pickle that is not allowed
        └── TensorError         tensors missing, unexpected, of the wrong shape or type, or not finite

Where a checkpoint loads but may not be read as intended, a `CheckpointWarning` is raised.
Mistakes in a call (a negative temperature, a prompt that is too long) are plain `ValueError`s.
"""


class GPT2Error(Exception):
    """Base of this package's errors."""


class ConfigError(GPT2Error):
    """A configuration that is not a GPT-2 this package can compute exactly."""


class CheckpointError(GPT2Error):
    """A checkpoint that does not load."""


class SourceError(CheckpointError):
    """Nothing to load at the given source."""


class WeightFileError(CheckpointError):
    """A weight file that cannot be read."""


class TensorError(CheckpointError):
    """Tensors that do not fit the configuration."""


class CheckpointWarning(UserWarning):
    """A checkpoint loaded, but part of it was changed or left out; the message says what."""
