"""Prompt ids -> events: the decode loop with one row. It knows no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

import numpy as np

from gpt2_runtime.arguments import check_type, invalid
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import GPT2RuntimeError
from gpt2_runtime.generation.config import SETTINGS, IdSettings, check_unset, resolve
from gpt2_runtime.generation.events import Event
from gpt2_runtime.generation.prefix_cache import PrefixCache, check_prefixes
from gpt2_runtime.generation.prompt_lookup import LookupConfig
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import Scheduler

OF_TEXT = [name for name, row in SETTINGS.items() if row.of_text]


def generate(
    session: Session,
    prompt_ids: Sequence[int],
    *,
    rng: np.random.Generator | None = None,
    lookup: LookupConfig | None = None,
    prefixes: PrefixCache | None = None,
    **settings: Unpack[IdSettings],
) -> Iterator[Event]:
    """Continues a prompt: yields a Token for each new token, then one Finished.

    The last token chosen never has to be read, so a prompt of n_positions tokens still has room for one.

    Args:
        session: what computes.
        prompt_ids: at least one id; to start from nothing, pass the end-of-text token.
        rng: where the draws come from; by default a generator of the setting `seed`, whose draws are those of
            `TextGenerator.complete`.
        lookup: draft the next tokens from what followed the same words before, and verify several in one step. The
            tokens are those of decoding without it, and come sooner where a text repeats itself or its prompt. In int8
            and int4 on the CPU it drafts nothing, for several tokens at once have other bits there than one by one:
            unless the session is `fast_single`, and then the tokens may differ.
        prefixes: what the session has computed of earlier prompts: what this one shares with them is not computed
            again, and it is kept for later ones. The tokens are the same, and so are all logits.
        settings: those of `GenerationConfig` and `SamplingConfig` by their names, without those that are about text;
            see `GenerationConfig.of`.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        SettingError: a setting is out of range, or the prefixes are of another session.

    >>> events = list(generate(session, [5, 6, 7], max_new_tokens=3, temperature=0, stop_token_ids=()))
    >>> [event.index for event in events[:-1]], events[-1].reason
    ([0, 1, 2], 'length')
    """
    config = resolve(settings)
    check_unset(config, OF_TEXT, "which generate, without a text, cannot heed", "use TextGenerator.stream")
    request = Request.with_config(prompt_ids, config)
    check_type("session", session, Session)
    check_prefixes(prefixes, session)
    if rng is None:
        rng = np.random.default_rng() if config.seed is None else generator_of(config.seed)
    elif config.seed is not None:
        raise invalid("seed", config.seed, "and rng is given too", "leave one of them out")
    if not isinstance(rng, np.random.Generator):
        raise invalid("rng", rng, "must be a numpy Generator: np.random.default_rng(seed)")
    # The checks run at the call, the loop at the first `next`.
    return stream_events(session, RequestState(session, request, rng, lookup), prefixes)


def generator_of(seed: int) -> np.random.Generator:
    """The generator whose draws a seed repeats."""
    return np.random.Generator(np.random.PCG64(seed))


def stream_events(session: Session, state: RequestState, prefixes: PrefixCache | None = None) -> Iterator[Event]:
    """The events of one request, to its end, from a scheduler of one row with room for no more than it needs.

    Raises:
        GPT2RuntimeError: it cannot go on.
    """
    scheduler = Scheduler(session, rows=1, capacity=state.capacity, prefixes=prefixes)
    scheduler.submit(state)
    while not scheduler.idle:
        for _, outcome in scheduler.step():
            if isinstance(outcome, GPT2RuntimeError):
                raise outcome
            yield outcome
