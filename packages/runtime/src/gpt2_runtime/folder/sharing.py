"""What happens when an object is copied or pickled."""

from __future__ import annotations

from typing import ClassVar, NoReturn, Self

from gpt2_runtime.errors import GPT2RuntimeError


class Shared:
    """Immutable or thread-safe: copying it within a process returns the object itself."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Local:
    """Holds memory of its process, so it cannot be pickled; `remedy` says what to send instead.

    >>> import pickle
    >>> pickle.dumps(session.empty_cache())
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.GPT2RuntimeError: SharedCache holds memory of this process, so it cannot be sent to another; \
send the token ids, and read them there
    """

    remedy: ClassVar[str]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        problem = f"{type(self).__name__} holds memory of this process, so it cannot be sent to another"
        raise GPT2RuntimeError(f"{problem}; {self.remedy}")
