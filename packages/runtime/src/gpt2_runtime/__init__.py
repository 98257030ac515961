"""Generates text with an exported GPT-2 folder in onnxruntime, without PyTorch.

Of token ids, and of text on top of them::

    generate(session, ids)               ids  -> events             Session, SamplingConfig, Token, Finished
    beam_search(session, ids)            ids  -> likeliest texts    Beam
    TextGenerator.stream(prompt)         text -> stream of text
    TextGenerator.complete(prompt)       text -> text               Completion
    TextGenerator.search(prompt)         text -> likeliest texts    Found
    complete_batch(generator, prompts)   many texts at once         Prompt, Result

And what the model makes of a text that is there::

    score_prompt(session, ids)       ids  -> log-probabilities     TokenScore
    perplexity(session, ids)         a text of any length          Perplexity

>>> from gpt2_runtime import TextGenerator
>>> TextGenerator.open(folder).complete("To be", max_new_tokens=5, seed=1).finish_reason
'length'
"""

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # type checkers take it for that of typing, which need not be imported before Ctrl-C is answered
if TYPE_CHECKING:
    from gpt2_runtime.batch import Prompt, Result, complete_batch
    from gpt2_runtime.beams import Beam, beam_search
    from gpt2_runtime.bundle import Bundle
    from gpt2_runtime.cache import KeyValueCache
    from gpt2_runtime.completion import Completion, TokenLogprob
    from gpt2_runtime.errors import Gpt2RuntimeError
    from gpt2_runtime.events import Finished, Timings, Token
    from gpt2_runtime.generate import generate
    from gpt2_runtime.lookup import LookupConfig
    from gpt2_runtime.perplexity import Perplexity, perplexity, score_windows
    from gpt2_runtime.prefixes import PrefixCache
    from gpt2_runtime.sampling import AS_TRAINED, GREEDY, SamplingConfig
    from gpt2_runtime.scoring import TokenScore, score, score_prompt
    from gpt2_runtime.session import Session
    from gpt2_runtime.text import Found, TextGenerator, TextStream
    from gpt2_runtime.tokenizer import Tokenizer

__version__ = "0.1.0"

# Where each public name lives; loaded on first use, so that the command answers Ctrl-C before numpy is imported.
HOMES = {
    "TextGenerator": "text",
    "TextStream": "text",
    "Completion": "completion",
    "TokenLogprob": "completion",
    "Found": "text",
    "complete_batch": "batch",
    "Prompt": "batch",
    "Result": "batch",
    "generate": "generate",
    "Token": "events",
    "Finished": "events",
    "Timings": "events",
    "beam_search": "beams",
    "Beam": "beams",
    "Session": "session",
    "KeyValueCache": "cache",
    "Bundle": "bundle",
    "Tokenizer": "tokenizer",
    "SamplingConfig": "sampling",
    "AS_TRAINED": "sampling",
    "GREEDY": "sampling",
    "LookupConfig": "lookup",
    "PrefixCache": "prefixes",
    "score": "scoring",
    "score_prompt": "scoring",
    "TokenScore": "scoring",
    "perplexity": "perplexity",
    "score_windows": "perplexity",
    "Perplexity": "perplexity",
    "Gpt2RuntimeError": "errors",
}
__all__ = [
    "TextGenerator",
    "TextStream",
    "Completion",
    "TokenLogprob",
    "Found",
    "complete_batch",
    "Prompt",
    "Result",
    "generate",
    "Token",
    "Finished",
    "Timings",
    "beam_search",
    "Beam",
    "Session",
    "KeyValueCache",
    "Bundle",
    "Tokenizer",
    "SamplingConfig",
    "AS_TRAINED",
    "GREEDY",
    "LookupConfig",
    "PrefixCache",
    "score",
    "score_prompt",
    "TokenScore",
    "perplexity",
    "score_windows",
    "Perplexity",
    "Gpt2RuntimeError",
]


class _Package(ModuleType):
    """This module: importing `gpt2_runtime.generate` binds that module here, where the function of its name belongs."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name in HOMES:
        found = globals()[name] = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
        return found
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":  # the module is here, and something that it needs is not
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


sys.modules[__name__].__class__ = _Package
