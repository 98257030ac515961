"""All errors of this package, as one tree. A message is one line: what, its value, the limit, the remedy.

::

    GPT2RuntimeError
    ├── BundleError           the folder is missing, damaged, or does not match its manifest
    │   ├── GraphError        the ONNX graph does not match the folder's config
    │   └── TokenizerError    the tokenizer files are absent, or not a byte-level BPE like GPT-2's
    ├── ProviderError         the requested execution provider is not available
    ├── SettingError          a setting of the call is out of range (also a ValueError)
    ├── PromptError           the prompt cannot be read (also a ValueError)
    │   ├── EmptyPromptError
    │   ├── PromptTooLongError
    │   └── TokenIdError      a token id outside the vocabulary
    ├── JobError              a line of a batch file cannot be read, or its output cannot be resumed
    ├── ContextFullError      a step would read more positions than the model has
    └── LogitsError           the model computed NaN or infinity

An error's class is its stable code. If one parameter is at fault, `parameter` is its name and `value` its value, so
that a program need not parse the message:

>>> from gpt2_runtime import GPT2RuntimeError, SamplingConfig
>>> try:
...     SamplingConfig(temperature=-1)
... except GPT2RuntimeError as error:
...     print(type(error).__name__, error.parameter, error.value)
SettingError temperature -1
"""

import json


class GPT2RuntimeError(Exception):
    """The root: catch it to catch every error of this package.

    Attributes:
        parameter: the name of the refused argument or setting; None if no single one is at fault.
        value: its value; None if `parameter` is None.

    >>> print(SettingError("a name of two\\nlines is refused"))
    a name of two\\nlines is refused
    """

    def __init__(self, message: str, *, parameter: str | None = None, value: object = None) -> None:
        # File names and values are untrusted: they may contain line breaks, or be pages long.
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
        middle = MOST_CHARACTERS // 2
        super().__init__(line if len(line) <= MOST_CHARACTERS else f"{line[:middle]} ... {line[-middle:]}")
        self.parameter = parameter
        self.value = value


class BundleError(GPT2RuntimeError):
    """The folder is missing, damaged, or does not match its manifest."""


class GraphError(BundleError):
    """The ONNX graph does not match the folder's config."""


class TokenizerError(BundleError):
    """The tokenizer files are absent, or not a byte-level BPE like GPT-2's."""


class ProviderError(GPT2RuntimeError):
    """The requested execution provider is not available."""


class SettingError(GPT2RuntimeError, ValueError):
    """A setting of the call is out of range."""


class PromptError(GPT2RuntimeError, ValueError):
    """The prompt cannot be read."""


class EmptyPromptError(PromptError):
    """The prompt has no tokens, so there is nothing to continue; or a text has only one: nothing to score."""


class PromptTooLongError(PromptError):
    """The prompt has more tokens than the model can read."""


class TokenIdError(PromptError):
    """A token id outside the vocabulary."""


class JobError(GPT2RuntimeError):
    """A line of a batch file cannot be read, or its output cannot be resumed."""


class ContextFullError(GPT2RuntimeError):
    """A step would read more positions than the model has."""


class LogitsError(GPT2RuntimeError):
    """The model computed NaN or infinity, so there is no token to choose."""


MOST_CHARACTERS = 900  # characters of a message
MOST_SHOWN = 80  # characters of a value in a message


def shown(value: object) -> str:
    """A value as shown in a message: its repr on one line, shortened if long.

    >>> shown("a"), shown(["b"] * 100)
    ("'a'", "['b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b', '...")
    """
    try:
        written = " ".join(line.strip() for line in repr(value).splitlines())
    except Exception:  # an integer of thousands of digits, thousands of brackets, a failing repr
        return f"{type(value).__name__} that is too long to show"
    return written if len(written) <= MOST_SHOWN else written[: MOST_SHOWN - 3] + "..."


def shown_json(value: object) -> str:
    """A value from JSON, shown as JSON, shortened if long.

    >>> print(shown_json({"stop": ["x", True, None]}))
    {"stop": ["x", true, null]}
    """
    try:
        written = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return f"{type(value).__name__} that is too long to show"
    return written if len(written) <= MOST_SHOWN else written[: MOST_SHOWN - 3] + "..."


def counted(count: int, noun: str) -> str:
    """A number and a noun, in the plural if needed.

    >>> counted(1, "token"), counted(2, "token")
    ('1 token', '2 tokens')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
