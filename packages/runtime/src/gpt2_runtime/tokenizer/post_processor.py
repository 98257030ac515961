"""The ids that the post-processor in tokenizer.json adds before and after each text."""

from __future__ import annotations

from gpt2_runtime.errors import TokenizerError, shown
from gpt2_runtime.folder.json_object import JsonObject

Ids = tuple[int, ...]
REMEDY = "pass token ids (--prompt-ids 464,3290), without stop strings or bad words"


def prefix_and_suffix(tokenizer: JsonObject) -> tuple[Ids, Ids]:
    """The ids added before a text, and those added after it.

    Raises:
        TokenizerError: the post-processor does anything else.

    >>> prefix_and_suffix(JsonObject(where="tokenizer.json", fields={"post_processor": {"type": "ByteLevel"}}))
    ((), ())
    """
    value = tokenizer.get("post_processor")
    return ((), ()) if value is None else _of(tokenizer.object("post_processor"))


def _of(processor: JsonObject) -> tuple[Ids, Ids]:
    match processor.get("type"):
        case "ByteLevel":
            return (), ()  # moves offsets only
        case "TemplateProcessing":
            return _template(processor)
        case "RobertaProcessing" | "BertProcessing":
            return (_id(processor, "cls"),), (_id(processor, "sep"),)
        case "Sequence":
            parts = (_object(processor, str(number), part) for number, part in enumerate(processor.items("processors")))
            adding = [ids for ids in map(_of, parts) if ids != ((), ())]
            if len(adding) > 1:  # the second would then wrap each piece that the first put together
                raise TokenizerError(f"{processor.where} adds tokens more than once, which is not supported; {REMEDY}")
            return adding[0] if adding else ((), ())
        case other:
            raise TokenizerError(f"{processor.where} is {shown(other)}, which is not supported; {REMEDY}")


def _template(processor: JsonObject) -> tuple[Ids, Ids]:
    special = processor.get("special_tokens")
    parts: list[Ids] = [()]
    for piece in processor.items("single"):
        match piece:
            case {"Sequence": {"id": "A"}}:
                parts.append(())
            case {"SpecialToken": {"id": str(name)}} if isinstance(special, dict) and name in special:
                token = JsonObject(where=processor.where, fields=special).object(name)
                parts[-1] += _ids(token, "ids", token.items("ids"))
            case _:
                raise TokenizerError(f"{processor.where}: single has {shown(piece)}, which is not supported; {REMEDY}")
    if len(parts) != 2:
        raise TokenizerError(f"{processor.where}: single has the text {len(parts) - 1} times, must be once; {REMEDY}")
    return parts[0], parts[1]


def _object(processor: JsonObject, name: str, value: object) -> JsonObject:
    return JsonObject(where=processor.where, fields={name: value}).object(name)


def _id(processor: JsonObject, name: str) -> int:
    match processor.get(name):
        case [str(), id_]:
            return _ids(processor, name, [id_])[0]
    processor.refuse(name, "a token and its id")


def _ids(fields: JsonObject, name: str, values: list[object]) -> Ids:
    ids = tuple(value for value in values if isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    return ids if len(ids) == len(values) else fields.refuse(name, "token ids")
