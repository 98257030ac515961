"""Prompt ids -> events: the decode loop with one row. It knows no text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from gpt2_runtime.arguments import check_type, invalid
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import GPT2RuntimeError
from gpt2_runtime.generation.events import Event
from gpt2_runtime.generation.prefix_cache import PrefixCache, check_prefixes
from gpt2_runtime.generation.prompt_lookup import LookupConfig
from gpt2_runtime.generation.request import Overflow, Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import Scheduler
from gpt2_runtime.sampling.config import AS_TRAINED, SamplingConfig


def generate(
    session: Session,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig = AS_TRAINED,
    rng: np.random.Generator | None = None,
    stop_token_ids: Collection[int] | None = None,
    overflow: Overflow = "error",
    logprobs: int | None = None,
    lookup: LookupConfig | None = None,
    prefixes: PrefixCache | None = None,
) -> Iterator[Event]:
    """Continues a prompt: yields a Token for each new token, then one Finished.

    The last token chosen never has to be read, so a prompt of n_positions tokens still has room for one.

    Args:
        session: what computes.
        prompt_ids: at least one id; to start from nothing, pass the end-of-text token.
        max_new_tokens: at least 0; the model's positions may end the text sooner.
        sampling: how a token is chosen.
        rng: where the draws come from; by default a fresh generator that cannot be repeated.
        stop_token_ids: the tokens that end the text; by default the folder's end-of-text token.
        overflow: what becomes of a text longer than the model reads, "error", "truncate" or "slide": see `Request`.
        logprobs: tell the log-probability of each token, and of so many of the likeliest; None tells none.
        lookup: draft the next tokens from what followed the same words before, and verify several in one step. The
            tokens are those of decoding without it, and come sooner where a text repeats itself or its prompt. In int8
            and int4 on the CPU it drafts nothing, for several tokens at once have other bits there than one by one:
            unless the session is `fast_single`, and then the tokens may differ.
        prefixes: what the session has computed of earlier prompts: what this one shares with them is not computed
            again, and it is kept for later ones. The tokens are the same, and so are all logits.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        SettingError: a setting is out of range, or the prefixes are of another session.

    >>> from gpt2_runtime import GREEDY
    >>> events = list(generate(session, [5, 6, 7], max_new_tokens=3, sampling=GREEDY, stop_token_ids=()))
    >>> [event.index for event in events[:-1]], events[-1].reason
    ([0, 1, 2], 'length')
    """
    request = Request(
        prompt_ids=prompt_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_token_ids=stop_token_ids,
        overflow=overflow,
        logprobs=logprobs,
    )
    check_type("session", session, Session)
    check_prefixes(prefixes, session)
    rng = np.random.default_rng() if rng is None else rng
    if not isinstance(rng, np.random.Generator):
        raise invalid("rng", rng, "must be a numpy Generator: np.random.default_rng(seed)")
    # The checks run at the call, the loop at the first `next`.
    return stream_events(session, RequestState(session, request, rng, lookup), prefixes)


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
