"""What can go wrong between a checkpoint and a running model.

    GPT2Error                   everything below; each message says what, the value, the limit and the remedy
    ├── ConfigError             a field of config.json: unknown, out of range, or arithmetic that is not done here
    └── CheckpointError         something about the source of the weights
        ├── SourceError         no such folder, no such repository, no network, no weights of a kind that is read
        ├── WeightFileError     a file of weights that cannot be read: truncated, hostile, a pickle without leave
        └── TensorError         tensors missing, unexpected, of a wrong shape or type, or not finite

What was read all the same, though it may not have been meant so, comes as a `CheckpointWarning`.
Mistakes in a call (a negative temperature, a prompt that is too long) are plain `ValueError`s.
"""


class GPT2Error(Exception):
    """Base of every error of this package."""


class ConfigError(GPT2Error):
    """A configuration that does not describe a GPT-2 which can be computed exactly."""


class CheckpointError(GPT2Error):
    """A checkpoint that does not load."""


class SourceError(CheckpointError):
    """Nothing to load from at the place named."""


class WeightFileError(CheckpointError):
    """A file of weights that cannot be read."""


class TensorError(CheckpointError):
    """Tensors that are not those of the model which the configuration describes."""


class CheckpointWarning(UserWarning):
    """A checkpoint was read, but something of it otherwise than it says, or not at all; the message says what."""
