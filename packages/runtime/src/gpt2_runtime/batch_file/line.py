"""A line of a batch file: in, a JSON object with a prompt and its settings; out, a completion as a JSON object."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import numpy as np

from gpt2_runtime.arguments import check_names, invalid
from gpt2_runtime.errors import JobError, shown_json
from gpt2_runtime.generation.config import SAMPLING, SETTINGS, GenerationConfig, Settings, check_seed, resolve
from gpt2_runtime.text.batch import Prompt
from gpt2_runtime.text.completion import Completion
from gpt2_runtime.tokenizer.tokenizer import Tokenizer

NAMES = ("id", "prompt", "token_ids", "n", *SETTINGS)
MOST_LINE_BYTES = 4_000_000  # several hundred times GPT-2's context; parsed, it fits into 100 MB
MOST_NAMES = 300_000  # of an object: a bias for each token of any vocabulary

TOO_DEEP = "has a value that is nested too deep; no setting is a list of lists of lists"
KINDS = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Settings for lines that do not override them.

    Attributes:
        settings: all but the seed. A line overrides each by its name, including the sampling settings.
        n: continuations per prompt.
        seed: combined with a line's number, gives that line's seed, so that a second run draws the same.
        model: identifies the folder and precision.
    """

    settings: Settings = field(default_factory=Settings)
    n: int = 1
    seed: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        if not isinstance(self.settings, Mapping):
            raise invalid("settings", self.settings, "must map names to values: {'max_new_tokens': 20}")
        resolve(self.settings)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A parsed line.

    Attributes:
        line: its number, counted from 1.
        id: its id; by default its number.
        prompt: the prompt and its settings.
        digest: differs if the model, the prompt or a setting differs.
    """

    line: int
    id: str | int
    prompt: Prompt
    digest: str

    @property
    def key(self) -> str:
        """The id as JSON: 1 is not "1"."""
        return json.dumps(self.id)


def read(text: bytes, line: int, defaults: Defaults) -> Job:
    """Parses a line.

    Raises:
        JobError: it is not a JSON object, has an unknown name or an invalid value, or more than MOST_LINE_BYTES.

    >>> job = read(b'{"id": "a", "prompt": "To be", "temperature": 0, "max_new_tokens": 5}', 1, Defaults())
    >>> job.id, job.prompt.settings["sampling"].temperature, job.prompt.settings["max_new_tokens"]
    ('a', 0, 5)
    """
    document = _document(text)
    check_names(document, NAMES, shown_json)
    id_ = document.get("id", line)
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise JobError(f"id is {shown_json(id_)}, must be a string or an integer; leave it out for the line's number")
    if isinstance(id_, str) and re.search("[\ud800-\udfff]", id_):  # UTF-8 cannot encode it
        raise JobError(f"id is {shown_json(id_)}, which has half a surrogate pair; use valid Unicode")
    given = {name: document[name] for name in SETTINGS if name in document}
    if not isinstance(given.get("parse_special", True), bool):
        raise JobError(f"parse_special is {shown_json(given['parse_special'])}, must be true or false")
    if "logit_bias" in given:
        given["logit_bias"] = _bias(given["logit_bias"])
    settings: dict[str, Any] = {"seed": _seed(defaults.seed, line), **_flat(defaults.settings), **given}
    chosen = {name: settings.pop(name) for name in (*SAMPLING, "sampling") if name in settings}
    settings["sampling"] = resolve(chosen).sampling
    prompt = Prompt(prompt=_prompt(document), settings=cast(Settings, settings), n=document.get("n", defaults.n))
    request = [defaults.model, prompt.prompt, prompt.n, settings | {"sampling": asdict(settings["sampling"])}]
    try:
        canonical = json.dumps(request, sort_keys=True, default=str)
    except RecursionError as error:
        raise JobError(TOO_DEEP) from error
    return Job(line=line, id=id_, prompt=prompt, digest=hashlib.sha256(canonical.encode()).hexdigest()[:16])


def written(job: Job, completions: tuple[Completion, ...], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The line's output: the fields of one completion, or a list of completions if `n` is more than 1."""
    listed = [completion.to_dict(tokenizer) for completion in completions]
    answer = listed[0] if job.prompt.n == 1 else {"completions": listed}
    return {"id": job.id, **answer, "digest": job.digest}


def _flat(settings: Settings) -> dict[str, Any]:
    """The settings with a config replaced by its fields, except the seed, which each line has itself."""
    others: dict[str, Any] = dict(settings)
    config = others.pop("config", None)
    if config is None:
        return others
    return {each.name: getattr(config, each.name) for each in fields(GenerationConfig) if each.name != "seed"} | others


def _document(text: bytes) -> Mapping[str, Any]:
    if len(text) > MOST_LINE_BYTES:
        raise JobError(
            f"has more than {MOST_LINE_BYTES:,} bytes, the limit for a line; shorten it, or split its prompt"
        )
    try:
        # JSON allows dropping a byte order mark, and concatenated files have one in the middle.
        document = json.loads(text.decode().removeprefix("\ufeff"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise JobError(f"is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise JobError(f"is not readable JSON: {error}") from error
    except RecursionError as error:
        raise JobError(TOO_DEEP) from error
    except ValueError as error:
        most = sys.get_int_max_str_digits()
        raise JobError(f"has an integer of more than {most:,} digits, too long for any setting; shorten it") from error
    if not isinstance(document, dict):
        raise JobError(f'is {KINDS[type(document)]}, must be an object such as {{"prompt": "To be"}}')
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a duplicate name, for which json would silently use the last value."""
    names = dict(pairs)
    if len(names) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise JobError(f"has {shown_json(twice)} twice; give it once")
    if len(names) > MOST_NAMES:
        raise JobError(f"has an object of {len(names):,} names, must have at most {MOST_NAMES:,}; leave some out")
    return names


def _prompt(document: Mapping[str, Any]) -> str | list[int]:
    text, ids = document.get("prompt"), document.get("token_ids")
    if (text is None) == (ids is None):
        raise JobError("must have either prompt or token_ids")
    if ids is None:
        if not isinstance(text, str):
            raise JobError(f"prompt is {shown_json(text)}, must be a string; pass token ids as token_ids")
        return text
    if not isinstance(ids, list) or any(isinstance(id_, bool) or not isinstance(id_, int) for id_ in ids):
        raise JobError("token_ids are not a list of integers such as [464, 3290]")
    return ids


def _bias(biases: object) -> dict[int, Any]:
    """Converts the names, which JSON requires to be strings, to token ids."""
    if not isinstance(biases, dict):
        raise JobError(f'logit_bias is {shown_json(biases)}, must be an object such as {{"50256": -1.5}}')
    for name in biases:
        if not re.fullmatch("0|[1-9][0-9]{0,17}", name):  # one spelling per id, to rule out duplicates
            raise JobError(f'logit_bias has the name {shown_json(name)}, must be a token id such as "50256"')
    return {int(name): bias for name, bias in biases.items()}


def _seed(seed: int, line: int) -> int:
    return int(np.random.SeedSequence([seed, line]).generate_state(1)[0])
