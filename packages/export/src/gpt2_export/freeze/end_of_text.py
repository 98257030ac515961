"""The tokens that end a text: those generation stops at and the one the tokenizer writes."""

from collections.abc import Sequence
from typing import Any

from gpt2_model.errors import ConfigError

from gpt2_export.freeze.tokenizer_files import Made

FIELD = "eos_token_id"


def chosen(eos: Sequence[int | str], tokenizer: Made, vocab_size: int) -> int | list[int]:
    """`eos_token_id` of config.json for the ids and tokens that the user names; a number is an id.

    Raises:
        ConfigError: the model does not have one of them.

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
    number = tokenizer.id_of(eos)
    if number is None and tokenizer.document is None:
        raise ConfigError(f"eos is {eos!r}, but there is no tokenizer to read it; give the token's id")
    if number is None or number >= vocab_size:
        raise ConfigError(
            f"eos is {eos!r}, which is not a token of the model; spell it as the tokenizer does, or give its id"
        )
    return number


def warnings(tokenizer: Made, stops: Any, where: str) -> list[str]:
    """Warns if generation does not stop at the token that the tokenizer ends its texts with.

    Args:
        tokenizer: the folder's.
        stops: `eos_token_id` as generation reads it: an id, a list of ids or None.
        where: the file that has it.
    """
    end = tokenizer.named.get("eos_token")
    id_ = None if end is None else tokenizer.id_of(end)
    ids = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if id_ is None or id_ in ids:
        return []
    does = f"stops at {' and '.join(map(str, ids))}" if ids else "stops at no token"
    return [
        f"the tokenizer ends texts with {end!r} ({id_}), but {where} has eos_token_id {stops}: generation {does} and "
        f"continues after {id_}; set eos (--eos {id_}) to change that"
    ]
