"""The tokens that end a text: what generation stops at, beside what the tokenizer ends its texts with."""

from collections.abc import Sequence
from typing import Any

from gpt2_model.errors import ConfigError

from gpt2_export.freeze.tokenizer_files import Made

FIELD = "eos_token_id"


def chosen(eos: Sequence[int | str], tokenizer: Made, vocab_size: int) -> int | list[int]:
    """What config.json has as `eos_token_id` for the ids and tokens that the user names; a number is an id.

    Raises:
        ConfigError: one of them is none that the model has.

    >>> chosen(["50256"], Made(document=None), 50257), chosen([0, 50256], Made(document=None), 50257)
    (50256, [0, 50256])
    """
    ids = [_id(each, tokenizer, vocab_size) for each in eos]
    return ids[0] if len(ids) == 1 else list(dict.fromkeys(ids))


def _id(eos: int | str, tokenizer: Made, vocab_size: int) -> int:
    if isinstance(eos, int) or (eos.isascii() and eos.isdecimal()):
        if not 0 <= int(eos) < vocab_size:
            raise ConfigError(f"eos is {eos}, the model has tokens 0 to {vocab_size - 1}; name one of these")
        return int(eos)
    found = tokenizer.id_of(eos)
    if found is None and tokenizer.document is None:
        raise ConfigError(f"eos is {eos!r}, and there is no tokenizer that could read it; give the token's id")
    if found is None or found >= vocab_size:
        raise ConfigError(
            f"eos is {eos!r}, which is no token of the model; name one as the tokenizer spells it, or an id"
        )
    return found


def warnings(tokenizer: Made, stops: Any, where: str) -> list[str]:
    """What generation will do, where it does not stop at the token that the tokenizer ends its texts with.

    Args:
        tokenizer: of the folder.
        stops: `eos_token_id` as generation reads it: an id, a list of ids or None.
        where: the file that says so.
    """
    end = tokenizer.named.get("eos_token")
    id_ = None if end is None else tokenizer.id_of(end)
    ids = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if id_ is None or id_ in ids:
        return []
    does = f"stops at {' and '.join(map(str, ids))}" if ids else "stops at no token"
    return [
        f"the tokenizer ends texts with {end!r} ({id_}), but {where} has eos_token_id {stops}: generation {does}, and "
        f"goes on after {id_}; eos (--eos {id_}) decides"
    ]
