"""Prompt ids -> events: prefill, then step and sample until a stop. It knows no text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from time import perf_counter

import numpy as np

from gpt2_runtime.arguments import check_type, invalid
from gpt2_runtime.engine.session import Session
from gpt2_runtime.generation.events import Event
from gpt2_runtime.generation.prefix_cache import PrefixCache, check_prefixes
from gpt2_runtime.generation.prompt_lookup import Ledger, LookupConfig, LookupIndex, check_lookup
from gpt2_runtime.generation.request import Overflow, Request
from gpt2_runtime.generation.request_state import Decoding
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
        lookup: guess the next tokens from what followed the same words before, and verify several in one step. The
            tokens are those of decoding without it, and come sooner where a text repeats itself or its prompt. In int8
            and int4 on the CPU it guesses nothing, for several tokens at once have other bits there than one by one:
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
    check_lookup(lookup)
    check_prefixes(prefixes, session)
    rng = np.random.default_rng() if rng is None else rng
    if not isinstance(rng, np.random.Generator):
        raise invalid("rng", rng, "must be a numpy Generator: np.random.default_rng(seed)")
    # The checks run at the call, the loop at the first `next`.
    return run(session, Decoding(session, request, rng), lookup, prefixes)


def run(
    session: Session,
    decoding: Decoding,
    lookup: LookupConfig | None = None,
    prefixes: PrefixCache | None = None,
) -> Iterator[Event]:
    """The events of one request, to its end."""
    yield from decoding.begin()
    known = prefixes if session.packed else None
    cache = session.empty_cache(capacity=decoding.capacity)
    guesser = None if lookup is None or session.even else _Guesser(lookup)
    seen = 0
    while decoding.finished is None:
        start = perf_counter()
        unread = decoding.next_read()
        guesses = guesser.guess(decoding.ids[seen:], decoding.spare) if guesser else []
        cache = cache.crop(decoding.read)
        if known is not None and not seen:  # a window that slid starts within a text, as no prompt does
            cache, decoding.reused = known.restore(cache, unread, len(unread + guesses))
            unread = unread[decoding.reused :]
        ids = [unread + guesses]
        (logits,), cache = session.step_top_k(ids, cache, [decoding.needed], 1 + len(guesses))  # [1 + G]
        if known is not None and not seen:
            known.keep(decoding.ids, cache)
        choices = decoding.choose(logits, guesses)
        seconds = perf_counter() - start
        if guesser and seen and len(unread) == 1:  # a step that reads a text anew measures nothing
            guesser.learn(seconds, guesses=len(guesses), tokens=len(choices))
        seen = len(decoding.ids)
        yield from decoding.take(choices, seconds=seconds, guesses=len(guesses))


class _Guesser:
    """What the context says may come next, as far as guessing has paid."""

    def __init__(self, config: LookupConfig) -> None:
        self._config = config
        self._index = LookupIndex(config)
        self._ledger = Ledger()

    def guess(self, new: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens after the context, which goes on with `new`."""
        self._index.extend(new)
        count = min(self._ledger.guesses(self._config), most)
        return self._index.guess(count) if count else []

    def learn(self, seconds: float, *, guesses: int, tokens: int) -> None:
        """What a step cost and brought."""
        self._ledger = self._ledger.after(seconds=seconds, guesses=guesses, tokens=tokens)
