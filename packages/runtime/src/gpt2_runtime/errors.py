"""Everything this package refuses, as one tree. A message is one line: what, its value, the limit, the remedy.

::

    GPT2RuntimeError
    ├── BundleError           the folder is missing, damaged, or not what its manifest says
    │   ├── GraphError        the ONNX graph is not the one the folder's config describes
    │   └── TokenizerError    the tokenizer files are absent, or not a byte-level BPE as GPT-2's
    ├── ProviderError         the execution provider asked for is not there
    ├── SettingError          a setting of the call is out of range (also a ValueError)
    ├── PromptError           the prompt cannot be read (also a ValueError)
    │   ├── EmptyPromptError
    │   ├── PromptTooLongError
    │   └── TokenIdError      an id that the vocabulary does not have
    ├── JobError              a line of a batch's file cannot be read, or its output cannot be gone on with
    ├── ContextFullError      a step would read more positions than the model has
    └── LogitsError           the model computed NaN or infinity

An error's class is its stable code. Where one parameter is at fault, `parameter` is its name and `value` what was
given, so that a program need not read the sentence:

>>> from gpt2_runtime import GPT2RuntimeError, SamplingConfig
>>> try:
...     SamplingConfig(temperature=-1)
... except GPT2RuntimeError as error:
...     print(type(error).__name__, error.parameter, error.value)
SettingError temperature -1
"""

import json


class GPT2RuntimeError(Exception):
    """The root: catch it to catch every refusal of this package.

    Attributes:
        parameter: the name of the argument or setting that is refused; None where the error is not of one.
        value: what was given for it; None where `parameter` is None.

    >>> print(SettingError("a name of two\\nlines is refused"))
    a name of two\\nlines is refused
    """

    def __init__(self, message: str, *, parameter: str | None = None, value: object = None) -> None:
        # Names of files and values come from anywhere: they may have line breaks, or be pages long.
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
        middle = MOST_TOLD // 2
        super().__init__(line if len(line) <= MOST_TOLD else f"{line[:middle]} ... {line[-middle:]}")
        self.parameter = parameter
        self.value = value


class BundleError(GPT2RuntimeError):
    """The folder is missing, damaged, or not what its manifest says."""


class GraphError(BundleError):
    """The ONNX graph is not the one the folder's config describes."""


class TokenizerError(BundleError):
    """The tokenizer files are absent, or not a byte-level BPE as GPT-2's."""


class ProviderError(GPT2RuntimeError):
    """The execution provider asked for is not there."""


class SettingError(GPT2RuntimeError, ValueError):
    """A setting of the call is out of range."""


class PromptError(GPT2RuntimeError, ValueError):
    """The prompt cannot be read."""


class EmptyPromptError(PromptError):
    """The prompt has no tokens, so there is nothing to continue; or a text but one, so there is nothing to score."""


class PromptTooLongError(PromptError):
    """The prompt has more tokens than the model reads."""


class TokenIdError(PromptError):
    """A token id that the vocabulary does not have."""


class JobError(GPT2RuntimeError):
    """A line of a batch's file cannot be read, or its output cannot be gone on with."""


class ContextFullError(GPT2RuntimeError):
    """A step would read more positions than the model has."""


class LogitsError(GPT2RuntimeError):
    """The model computed NaN or infinity, so there is no token to choose."""


MOST_TOLD = 900  # characters of a message
MOST_SHOWN = 80  # of a value in it


def shown(value: object) -> str:
    """A value as a message has it: its repr, on one line, cut where it is long.

    >>> shown("a"), shown(["b"] * 100)
    ("'a'", "['b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', '...")
    """
    try:
        written = " ".join(line.strip() for line in repr(value).splitlines())
    except Exception:  # an integer of thousands of digits; thousands of brackets; a repr that fails
        return f"{type(value).__name__} that is too long to show"
    return written if len(written) <= MOST_SHOWN else written[: MOST_SHOWN - 3] + "..."


def shown_json(value: object) -> str:
    """A value that came as JSON, as JSON writes it, cut where it is long.

    >>> print(shown_json({"stop": ["x", True, None]}))
    {"stop": ["x", true, null]}
    """
    try:
        written = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return f"{type(value).__name__} that is too long to show"
    return written if len(written) <= MOST_SHOWN else written[: MOST_SHOWN - 3] + "..."


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "token"), counted(2, "token")
    ('1 token', '2 tokens')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
