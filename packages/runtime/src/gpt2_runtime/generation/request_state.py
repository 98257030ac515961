"""One request on its way: what has to be read next, and what the logits after it choose. It steps no session.

The loop around it, for one request or for many::

    unread = state.next_read()                   ids; the cache must hold `state.num_cached` tokens before them
    draft = state.propose()                      ids that may come after them, to be read in the same step
    choices = state.choose(logits, draft)        [1 + G], after the last of them and after each draft token: of the
                                                 logits [V] at least the `state.top_k_needed` highest
    events = state.append(choices, seconds=...)

G draft tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt2_runtime.engine.logits import Row
from gpt2_runtime.engine.session import Session
from gpt2_runtime.generation.events import Event, Finished, FinishReason, Timings, Token
from gpt2_runtime.generation.prompt_lookup import LookupConfig, LookupIndex, check_lookup, verify_draft
from gpt2_runtime.generation.request import Request
from gpt2_runtime.sampling.config import check_vocabulary
from gpt2_runtime.sampling.logprobs import likeliest, log_softmax


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A token that was chosen, and its log-probabilities where they were requested."""

    id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class RequestState:
    """The text of one request, as far as it has come. Its attributes are for reading: its methods set them.

    Args:
        session: the model that will read it.
        request: the prompt and its settings.
        rng: where the draws come from.
        lookup: draft tokens from what followed the same words before. In an even session (int8 and int4 on the CPU)
            there are none, for several tokens at once have other bits there than one by one.

    Attributes:
        ids: the prompt as it is read, and the new tokens.
        num_cached: how many tokens of the window are in the cache.
        finished: why it ended, None before that.
        failed: whether it can go no further, for an error that its owner has reported.
        truncated: how many tokens of the prompt were left out, from its start.
        slides: how often the window was moved on.
        reused: how many tokens of the prompt were not computed, for an earlier one starts with them.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        SettingError: a setting speaks of a token that the vocabulary does not have; `lookup` is not a LookupConfig.
    """

    def __init__(
        self, session: Session, request: Request, rng: np.random.Generator, lookup: LookupConfig | None = None
    ) -> None:
        self._limit = session.bundle.architecture.n_positions
        prompt = session.check_row(request.fitting(self._limit, session.bundle.bos_token_id))
        vocab_size = session.bundle.architecture.vocab_size
        check_vocabulary(request.sampling, vocab_size)
        check_lookup(lookup)
        self.request = request
        self.ids: list[int] = prompt.tolist()
        self.num_cached = 0
        self.finished: FinishReason | None = None
        self.failed = False
        self.truncated = len(request.prompt_ids) - len(prompt)
        self.slides = 0
        self.reused = 0
        self._rng = rng
        self._lookup = None if session.even else lookup
        self._index = LookupIndex(self._lookup) if self._lookup else None
        self._stops = request.stops(session.bundle.eos_token_ids, vocab_size)
        self._prompt_length = len(prompt)
        self._start = 0  # of the window among the ids
        # The last token chosen never has to be read.
        most = request.max_new_tokens if request.overflow == "slide" else self._limit - len(prompt) + 1
        self._room = min(request.max_new_tokens, most)
        self._seconds = 0.0  # of steps that have read, and chosen no token yet
        self._timings = Timings()
        self._array = np.empty(0, np.int64)  # the ids, as far as they are known there
        self._known = 0

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt as it is read."""
        return self.ids[: self._prompt_length]

    @property
    def new_ids(self) -> list[int]:
        """The tokens chosen so far, without a stop token."""
        return self.ids[self._prompt_length :]

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to read for it."""
        return self.failed or self.finished is not None

    @property
    def capacity(self) -> int:
        """The tokens that a row of a cache must have room for."""
        return min(self._limit, self._prompt_length + max(0, self._room - 1))

    @property
    def top_k_needed(self) -> int | None:
        """Of how many of the highest logits a token is chosen, and of what ties with the last of them; None for all."""
        return self.request.sampling.needed if self.request.logprobs is None else None

    @property
    def drafts(self) -> bool:
        """Whether it may have draft tokens."""
        return self._index is not None

    @property
    def max_draft(self) -> int:
        """The most draft tokens that the next step may verify."""
        left = self._room - (len(self.ids) - self._prompt_length)
        return max(0, min(left, self._limit - (len(self.ids) - self._start)) - 1)

    def begin(self) -> list[Event]:
        """The events before the first step: the end, where no token is to come."""
        return [] if self._room else [self._end("length")]

    def next_read(self) -> list[int]:
        """The tokens to be read next, after the `num_cached` ones: the last, and all that the cache lacks.

        Where the window is full it moves on: its last half is read again, for positions are learned, and keys cannot be
        shifted.
        """
        if len(self.ids) - self._start > self._limit:
            self._start = len(self.ids) - max(1, self._limit // 2)
            self.slides += 1
            self.num_cached = 0
        return self.ids[self._start + self.num_cached :]

    def propose(self) -> list[int]:
        """Draft tokens: what may come next, by what followed the same words before; none where nothing is known."""
        if self._index is None or self._lookup is None:
            return []
        self._index.extend(self.ids[len(self._index) :])
        return self._index.draft(min(self._lookup.max_draft_tokens, self.max_draft))

    def restored(self, count: int) -> None:
        """The cache was given the first tokens of the prompt: they need not be read."""
        self.num_cached = self.reused = count

    def advance(self, count: int, *, seconds: float) -> None:
        """A step has read `count` tokens and not yet all, so that no token is chosen."""
        self.num_cached += count
        self._seconds += seconds

    def fail(self) -> None:
        """It can go no further."""
        self.failed = True

    def choose(self, logits: Sequence[Row], draft: Sequence[int] = ()) -> list[Choice]:
        """The next tokens, 1 to 1 + G of them: as many as the draft is right, and one more.

        Raises:
            LogitsError: the logits hold NaN or infinity.
        """
        request = self.request
        text = self._text() if request.sampling.processors else ()  # which nothing else looks at
        chosen = verify_draft(logits, draft, request.sampling, self._rng, self._stops, *text)
        if request.logprobs is None:
            return [Choice(id=id_) for id_ in chosen]
        rows = log_softmax(np.array(logits[: len(chosen)]))
        return [
            Choice(id=id_, logprob=float(row[id_]), top_logprobs=likeliest(row, request.logprobs))
            for id_, row in zip(chosen, rows, strict=True)
        ]

    def _text(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The prompt and the new tokens; an array that grows is extended by what came since, not made again."""
        if len(self._array) < len(self.ids):
            self._array = np.concatenate([self._array[: self._known], np.empty(2 * len(self.ids), np.int64)])
        self._array[self._known : len(self.ids)] = self.ids[self._known :]
        self._known = len(self.ids)
        return self._array[: self._prompt_length], self._array[self._prompt_length : self._known]

    def append(self, choices: Sequence[Choice], *, seconds: float, drafted: int = 0) -> list[Event]:
        """The events of a step that took `seconds`. The cache is right up to `num_cached`, and is then cut."""
        accepted = len(choices) - 1
        self.num_cached = len(self.ids) - self._start + accepted
        seconds, self._seconds = self._seconds + seconds, 0.0
        events: list[Event] = []
        for place, choice in enumerate(choices):
            # All of the step counts for its first token.
            spent = (0.0, 0, 0) if place else (seconds, drafted, accepted)
            self._timings = self._timings.after(*spent)
            if choice.id in self._stops:
                return [*events, self._end("stop")]
            index = len(self.ids) - self._prompt_length
            events.append(
                Token(
                    id=choice.id,
                    index=index,
                    timings=self._timings,
                    logprob=choice.logprob,
                    top_logprobs=choice.top_logprobs,
                )
            )
            self.ids.append(choice.id)
        if len(self.ids) - self._prompt_length == self._room:
            events.append(self._end("length"))
        return events

    def _end(self, reason: FinishReason) -> Finished:
        self.finished = reason
        return Finished(
            reason=reason,
            timings=self._timings,
            truncated=self.truncated,
            slides=self.slides,
            reused=self.reused,
        )
