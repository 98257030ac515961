"""How a prompt is continued: every setting, once, with its name, type, range, default and help.

A new setting is a field of `GenerationConfig`, or of `SamplingConfig` where it says how a token is chosen, a line of
`Settings` for type checkers, and the code that heeds it: the library's keywords, the names of a batch's line and the
command's options follow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, get_args

from gpt2_runtime.arguments import (
    check_choice,
    check_flag,
    check_ids,
    check_integer,
    check_names,
    check_texts,
    check_type,
    invalid,
    is_integer,
)
from gpt2_runtime.errors import SettingError, shown
from gpt2_runtime.sampling.config import AS_TRAINED, SamplingConfig, check_sampling
from gpt2_runtime.settings import Setting, check_settings, setting, settings_of
from gpt2_runtime.tokenizer.stop_strings import check_stops

Overflow = Literal["error", "truncate", "slide"]

MAX_NEW_TOKENS = 100
MOST_LOGPROBS = 100  # alternatives of a token
MOST_SLIDING = 100_000  # new tokens of a text whose window slides: nothing else would end it
MOST_BAD_WORDS, MOST_BAD_WORD_LENGTH = 10_000, 1000  # strings, and characters of each
SEEDS = 2**128  # as many states as the generator has


def check_seed(parameter: str, value: object) -> int:
    """SettingError for a seed out of range."""
    if not is_integer(value) or not 0 <= value < SEEDS:
        raise invalid(parameter, value, "must be an integer of at least 0 and below 2**128")
    return value


_check_logprobs = partial(check_integer, least=0, most=MOST_LOGPROBS, remedy="leave it out for none")


class IdSettings(TypedDict, total=False):
    """The settings of `generate`, which knows no text, by their names; `config` and `sampling` are many at once."""

    config: GenerationConfig
    sampling: SamplingConfig
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    no_repeat_ngram_size: int | None
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...]
    bad_words_ids: Sequence[Sequence[int]]
    min_new_tokens: int
    seed: int | None
    stop_token_ids: Collection[int] | None
    overflow: Overflow
    logprobs: int | None


class Settings(IdSettings, total=False):
    """All settings by their names: keywords of `complete`, `stream` and `search`, and a `Prompt`'s settings."""

    stop: Sequence[str]
    bad_words: Sequence[str]
    prompt_logprobs: int | None
    parse_special: bool


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How a prompt is continued.

    Args:
        max_new_tokens: at least 0; at most MOST_SLIDING where the window slides. The model's positions may end the text
            sooner.
        sampling: how a token is chosen; by default as the model was trained.
        seed: of the draws; by default a random one, which the completion reports.
        stop: strings that end the text and are not part of it. They are kept as a tuple.
        stop_token_ids: tokens that end the text; by default the folder's end-of-text token. They are kept as a set.
        bad_words: strings whose tokens never come one after another, as they are and after a space.
        overflow: what becomes of a text longer than the n_positions tokens the model reads. "error" refuses such a
            prompt and ends the text where the window is full; "truncate" keeps the prompt's last n_positions tokens;
            "slide" does so too, and reads the last half of a full window again, to go on with.
        logprobs: report the log-probability of each new token, and of this many of the likeliest ones; None for none.
        prompt_logprobs: the same of each token of the prompt after the first, which is read once more for that.
        parse_special: whether <|endoftext|> spelled out in the prompt is that token, or just text.

    Raises:
        SettingError: a value out of range.

    >>> GenerationConfig(max_new_tokens=20, sampling=SamplingConfig(temperature=0.5)).stop
    ()
    >>> GenerationConfig.of(max_new_tokens=20, temperature=0.5).sampling.temperature
    0.5
    """

    max_new_tokens: int = setting(
        MAX_NEW_TOKENS,
        partial(check_integer, least=0),
        kind=int,
        help="Generate at most this many tokens.",
        shown_default=str(MAX_NEW_TOKENS),
    )
    sampling: SamplingConfig = AS_TRAINED
    seed: int | None = setting(
        None,
        check_seed,
        kind=int,
        help="Random seed; the same seed gives the same text.",
        shown_default="random; --json shows it",
    )
    stop: Sequence[str] = setting(
        (),
        check_stops,
        kind=str,
        many=True,
        help="Stop before this text, taken literally: a newline is $'\\n' in bash. Repeatable.",
        of_text=True,
    )
    stop_token_ids: Collection[int] | None = setting(
        None,
        partial(check_ids, remedy="leave it out for end-of-text"),
        kind=int,
        many=True,
        help="Stop at this token. Repeatable.",
        shown_default="end-of-text",
        option="--stop-token-id",
    )
    bad_words: Sequence[str] = setting(
        (),
        lambda name, words: check_texts(name, "bad word", words, most=MOST_BAD_WORDS, longest=MOST_BAD_WORD_LENGTH),
        kind=str,
        many=True,
        help="Never generate the tokens of this text. Repeatable.",
        option="--bad-word",
        of_text=True,
    )
    overflow: Overflow = setting(  # noqa: RUF009 - which makes a field
        "error",
        partial(check_choice, choices=get_args(Overflow)),
        kind=str,
        choices=get_args(Overflow),
        help="If the text is longer than the model's context: refuse it, keep the end of the prompt, or continue from "
        "the last half.",
        shown_default="error",
    )
    logprobs: int | None = setting(
        None,
        _check_logprobs,
        kind=int,
        help="Show each new token's log-probability and the N likeliest tokens.",
        metavar="N",
    )
    prompt_logprobs: int | None = setting(
        None,
        _check_logprobs,
        kind=int,
        help="Show the same for the tokens of the prompt.",
        metavar="N",
        of_text=True,
    )
    parse_special: bool = setting(
        True,
        check_flag,
        kind=bool,
        help="Treat <|endoftext|> in the prompt as plain text.",
        option="--no-parse-special",
        of_text=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        check_sampling(self.sampling)
        if self.overflow == "slide" and self.max_new_tokens > MOST_SLIDING:
            problem = (
                f"max_new_tokens is {shown(self.max_new_tokens)}, must be at most {MOST_SLIDING:,} where overflow is"
            )
            problem = f"{problem} 'slide'; continue from the end of that text for more"
            raise SettingError(problem, parameter="max_new_tokens", value=self.max_new_tokens)

    @classmethod
    def of(cls, **settings: Unpack[Settings]) -> GenerationConfig:
        """The config of settings by their names, those of the sampling among them.

        `sampling` stands in place of that of `config`, and a name by itself in place of what either says.

        Raises:
            SettingError: a name that no setting has, or a value out of range.

        >>> base = GenerationConfig.of(temperature=0.5, top_k=40)
        >>> GenerationConfig.of(config=base, temperature=2.0).sampling == SamplingConfig(temperature=2.0, top_k=40)
        True
        >>> GenerationConfig.of(temprature=0.5)
        Traceback (most recent call last):
        ...
        gpt2_runtime.errors.SettingError: unknown setting 'temprature'; did you mean 'temperature'?
        """
        return resolve(settings)


SAMPLING = {row.name: row for row in settings_of(SamplingConfig)}
SETTINGS: dict[str, Setting] = {
    row.name: row for first, *others in [settings_of(GenerationConfig)] for row in (first, *SAMPLING.values(), *others)
}
"""All settings by their names, in the order in which they are shown."""

NAMES = ("config", "sampling", *SETTINGS)
DEFAULTS = GenerationConfig()


def resolve(settings: Mapping[str, Any]) -> GenerationConfig:
    """What `GenerationConfig.of` does, of a mapping that may have any names and values."""
    check_names(settings, NAMES)
    config = check_type("config", settings.get("config", DEFAULTS), GenerationConfig, "leave it out for the defaults")
    sampling = check_sampling(settings.get("sampling", config.sampling))
    chosen = {name: value for name, value in settings.items() if name in SAMPLING}
    others = {name: value for name, value in settings.items() if name in SETTINGS and name not in SAMPLING}
    return replace(config, **others, sampling=replace(sampling, **chosen) if chosen else sampling)


def check_unset(config: GenerationConfig, names: Collection[str], limit: str, remedy: str) -> None:
    """SettingError for a setting of these names that is not the default."""
    for name in names:
        if (value := getattr(config, name)) != getattr(DEFAULTS, name):
            raise invalid(name, value, limit, remedy)
