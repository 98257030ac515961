"""Events -> text, piece by piece, and the completion at the end. Makes no events and encodes no prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gpt2_runtime.errors import GPT2RuntimeError
from gpt2_runtime.generation.events import Event, Finished, FinishReason, Timings, Token
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.scoring.score import TokenScore
from gpt2_runtime.tokenizer.detokenizer import Detokenizer
from gpt2_runtime.tokenizer.stop_strings import StopStrings
from gpt2_runtime.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A new token with its log-probability, and the requested number of likeliest tokens with theirs.

    Attributes:
        id: the token.
        logprob: the natural logarithm of the model's probability, before any setting.
        top_logprobs: the likeliest tokens with their log-probabilities, likeliest first.
    """

    id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The completion of one prompt.

    Attributes:
        text: the new text without the prompt, up to a stop string; None if the folder has no tokenizer.
        token_ids: the new tokens, including those of a stop string, without an end-of-text token.
        prompt_token_ids: the tokens that the model read, after applying `overflow`.
        finish_reason: "stop" for a stop string or an end-of-text token, "length" if there was no room left.
        timings: seconds spent computing.
        seed: repeats the text, with the same settings.
        truncated: how many tokens were dropped from the start of the prompt.
        slides: how often the full window was moved.
        reused: how many tokens of the prompt were not computed, because an earlier prompt starts with them.
        logprobs: of each of `token_ids`; None unless requested.
        prompt_logprobs: of each of `prompt_token_ids`; the first has no score, with nothing before it.
    """

    text: str | None
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    finish_reason: FinishReason
    timings: Timings
    seed: int
    truncated: int = 0
    slides: int = 0
    reused: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenScore, ...] | None = None

    def to_dict(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """The completion for JSON; the same folder's tokenizer gives the text of each token with a logprob.

        >>> from gpt2_runtime import TextGenerator
        >>> generator = TextGenerator.open(folder)
        >>> completion = generator.complete("To be", max_new_tokens=2, temperature=0, logprobs=1)
        >>> first, second = completion.to_dict(generator.tokenizer)["logprobs"]
        >>> list(first), first["top_logprobs"][0]["id"] == first["id"]
        (['id', 'token', 'logprob', 'top_logprobs'], True)
        """
        timings = asdict(self.timings) | {"tokens_per_second": self.timings.tokens_per_second}
        listed: dict[str, Any] = {"logprobs": None, "prompt_logprobs": None}
        if self.logprobs is not None:
            listed["logprobs"] = [token_to_dict(tokenizer, each) for each in self.logprobs]
        if self.prompt_logprobs is not None:
            listed["prompt_logprobs"] = [token_to_dict(tokenizer, each) for each in self.prompt_logprobs]
        bare = replace(self, logprobs=None, prompt_logprobs=None)
        return asdict(bare) | {"timings": timings} | listed


def token_to_dict(tokenizer: Tokenizer | None, token: TokenLogprob | TokenScore) -> dict[str, Any]:
    """A token as in all JSON output: its id, its text, its log-probability, and the likeliest tokens with theirs.

    A token of a given text also has its rank.
    """
    rank = {"rank": token.rank} if isinstance(token, TokenScore) else {}
    top = [entry_to_dict(tokenizer, id_, logprob) for id_, logprob in token.top_logprobs]
    return {**entry_to_dict(tokenizer, token.id, token.logprob), **rank, "top_logprobs": top}


def entry_to_dict(tokenizer: Tokenizer | None, id_: int, logprob: float | None) -> dict[str, Any]:
    """One of the likeliest tokens; its text is null without a tokenizer, with U+FFFD for part of a character."""
    return {"id": id_, "token": None if tokenizer is None else tokenizer.decode([id_]), "logprob": logprob}


class Transcript:
    """The text of one request, assembled event by event.

    Args:
        state: the running request.
        seed: its seed.
        tokenizer: the folder's; without one there is no text.
        stop: the stop strings.
        prompt_logprobs: the prompt's scores, if requested.

    Raises:
        SettingError: a stop string is empty or not a string.
    """

    def __init__(
        self,
        state: RequestState,
        seed: int,
        tokenizer: Tokenizer | None,
        stop: Sequence[str],
        prompt_logprobs: tuple[TokenScore, ...] | None = None,
    ) -> None:
        self.state = state
        self._seed = seed
        self._prompt_logprobs = prompt_logprobs
        self._has_text = tokenizer is not None
        self._detokenizer = Detokenizer(tokenizer.token_bytes if tokenizer else lambda _: b"")
        self._stops = StopStrings(stop)
        self._pieces: list[str] = []
        self._tokens: list[Token] = []
        self._last: Event | None = None

    @property
    def ended(self) -> bool:
        """Whether the last event was fed, or a stop string is complete, so that no more events are needed."""
        return isinstance(self._last, Finished) or self._stops.found is not None

    @property
    def completion(self) -> Completion:
        """The completion; GPT2RuntimeError before it has ended."""
        if self._last is None or not self.ended:
            raise GPT2RuntimeError("stream has not ended, there is no completion yet; iterate over all its pieces")
        reason = self._last.reason if isinstance(self._last, Finished) and self._stops.found is None else "stop"
        return Completion(
            text="".join(self._pieces) if self._has_text else None,
            token_ids=tuple(token.id for token in self._tokens),
            prompt_token_ids=tuple(self.state.prompt_ids),
            finish_reason=reason,
            timings=self._last.timings,
            seed=self._seed,
            truncated=self.state.truncated,
            slides=self.state.slides,
            reused=self.state.reused,
            logprobs=None if self.state.request.logprobs is None else tuple(map(_token_logprob, self._tokens)),
            prompt_logprobs=self._prompt_logprobs,
        )

    def feed(self, event: Event) -> str:
        """The text that this event completes; may be empty."""
        self._last = event
        if isinstance(event, Token):
            self._tokens.append(event)
            piece = self._stops.feed(self._detokenizer.feed(event.id))
        else:
            piece = self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
        self._pieces.append(piece)
        return piece


def _token_logprob(token: Token) -> TokenLogprob:
    assert token.logprob is not None
    return TokenLogprob(id=token.id, logprob=token.logprob, top_logprobs=token.top_logprobs)
