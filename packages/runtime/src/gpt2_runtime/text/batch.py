"""Many prompts -> completions, each as if it were alone, in the order in which they finish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gpt2_runtime.arguments import check_names, check_type, invalid
from gpt2_runtime.errors import GPT2RuntimeError
from gpt2_runtime.generation.config import NAMES, Settings
from gpt2_runtime.generation.prompt_lookup import LookupConfig, check_lookup
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import ROWS, Scheduler
from gpt2_runtime.text.completion import Completion, Transcript
from gpt2_runtime.text.generator import TextGenerator


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt of a batch.

    Args:
        prompt: text, or token ids.
        settings: settings of `GenerationConfig` and `SamplingConfig` by their names.
        n: how many continuations; the prompt is read once. Their seeds count up from the first one's.

    Raises:
        SettingError: `settings` has an unknown name.
    """

    prompt: str | Sequence[int]
    settings: Settings = field(default_factory=Settings)
    n: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.settings, Mapping):
            raise invalid("settings", self.settings, "must map names to values: {'seed': 1}")
        check_names(self.settings, NAMES)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one prompt.

    Attributes:
        index: the prompt's index, counted from 0.
        completions: its `n` continuations, in the order of their seeds; empty if there is an error.
        error: why it could not be continued; None if it was.
    """

    index: int
    completions: tuple[Completion, ...] = ()
    error: GPT2RuntimeError | None = None


def complete_batch(
    generator: TextGenerator, prompts: Iterable[Prompt], *, rows: int = ROWS, lookup: LookupConfig | None = None
) -> Iterator[Result]:
    """Continues many prompts at once, and yields the result of each as soon as it finishes.

    A prompt is requested when a row is free, so `prompts` may be endless. A prompt that is refused, or whose settings
    leave no token, gives a result with an error, and the others continue.

    Args:
        generator: an open folder, on its serving graph. (On the portable graph `rows` must be 1.)
        prompts: the prompts, each with its own settings.
        rows: how many texts to continue at once.
        lookup: use prompt lookup for every prompt, as in `TextGenerator.stream`.

    Raises:
        SettingError: `rows` is out of range, or `prompts` cannot be iterated over.

    >>> generator = TextGenerator.open(folder)
    >>> long, short = {"stop_token_ids": ()}, {"max_new_tokens": 3, "seed": 1}
    >>> prompts = [Prompt(prompt="To be", settings=long), Prompt(prompt="The dog", settings=short, n=2)]
    >>> {result.index: len(result.completions) for result in complete_batch(generator, prompts)}
    {1: 2, 0: 1}
    """
    check_type("generator", generator, TextGenerator)
    if not isinstance(prompts, Iterable) or (isinstance(prompts, np.ndarray) and not prompts.ndim):
        raise invalid("prompts", prompts, "must be several Prompts: [Prompt(prompt='To be')]")
    check_lookup(lookup)
    # The caller waits for whole texts, not for tokens, so prompts need not be read in chunks.
    scheduler = Scheduler(generator.session, rows=rows, prefill_chunk=None, prefixes=generator.prefixes)
    return _results(generator, enumerate(prompts), scheduler, lookup)


def complete(
    generator: TextGenerator,
    prompt: str | Sequence[int],
    n: int,
    settings: Settings,
    *,
    rows: int = ROWS,
    lookup: LookupConfig | None = None,
) -> tuple[Completion, ...]:
    """`n` continuations of one prompt, which is read once; raises the errors of `TextGenerator.stream`."""
    rows = min(n, rows) if generator.session.graph == "serving" else 1
    prompts = [Prompt(prompt=prompt, settings=settings, n=n)]
    (result,) = complete_batch(generator, prompts, rows=max(1, rows), lookup=lookup)
    if result.error is not None:
        raise result.error
    return result.completions


class _Open:
    """A prompt whose continuations are running."""

    def __init__(self, index: int, transcripts: Sequence[Transcript]) -> None:
        self.index = index
        self.transcripts = transcripts
        self.error: GPT2RuntimeError | None = None

    @property
    def result(self) -> Result | None:
        """The result; None while a continuation is running."""
        if self.error is not None:
            return Result(index=self.index, error=self.error)
        if not all(transcript.ended for transcript in self.transcripts):
            return None
        return Result(index=self.index, completions=tuple(each.completion for each in self.transcripts))


def _results(
    generator: TextGenerator, prompts: Iterator[tuple[int, Prompt]], scheduler: Scheduler, lookup: LookupConfig | None
) -> Iterator[Result]:
    running: dict[RequestState, tuple[_Open, Transcript]] = {}
    while True:
        while scheduler.free and (item := next(prompts, None)) is not None:
            index, prompt = item
            try:
                if not isinstance(prompt, Prompt):
                    raise invalid("prompt", prompt, "must be a Prompt: Prompt(prompt='To be')")
                transcripts = generator.start(prompt.prompt, n=prompt.n, lookup=lookup, **prompt.settings)
            except GPT2RuntimeError as error:
                yield Result(index=index, error=error)
                continue
            opened = _Open(index, transcripts)
            running.update({each.state: (opened, each) for each in transcripts})
            scheduler.submit(*(each.state for each in transcripts))
        if scheduler.idle:
            return
        for state, event in scheduler.step():
            if state not in running:  # ended in this step by a stop string or an error of its prompt
                continue
            opened, transcript = running[state]
            if isinstance(event, GPT2RuntimeError):
                opened.error = event
                ended = opened.transcripts
            else:
                transcript.feed(event)
                ended = [transcript] if transcript.ended else []
            for each in ended:
                scheduler.cancel(each.state)
                running.pop(each.state, None)
            if ended and (result := opened.result) is not None:
                yield result
