"""Generates text with an exported GPT-2 folder in onnxruntime, without PyTorch.

Of token ids, and of text on top of them::

    generate(session, ids)               ids  -> events             Session, GenerationConfig, Token, Finished
    beam_search(session, ids)            ids  -> likeliest texts    Beam
    TextGenerator.stream(prompt)         text -> stream of text
    TextGenerator.complete(prompt)       text -> text               Completion
    TextGenerator.search(prompt)         text -> likeliest texts    BeamCompletion
    complete_batch(generator, prompts)   many texts at once         Prompt, Result

And what the model makes of a text that is there::

    score_prompt(session, ids)       ids  -> log-probabilities     TokenScore
    perplexity(session, ids)         a text of any length          Perplexity

>>> from gpt2_runtime import TextGenerator
>>> TextGenerator.open(folder).complete("To be", max_new_tokens=5, seed=1).finish_reason
'length'
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for that of typing, which need not be imported before Ctrl-C is answered
if TYPE_CHECKING:
    from gpt2_runtime.engine.cache import KeyValueCache
    from gpt2_runtime.engine.session import Session
    from gpt2_runtime.errors import GPT2RuntimeError
    from gpt2_runtime.folder.bundle import Bundle
    from gpt2_runtime.generation.beam_search import Beam, beam_search
    from gpt2_runtime.generation.config import GenerationConfig
    from gpt2_runtime.generation.events import Finished, Timings, Token
    from gpt2_runtime.generation.generate import generate
    from gpt2_runtime.generation.prefix_cache import PrefixCache
    from gpt2_runtime.generation.prompt_lookup import LookupConfig
    from gpt2_runtime.sampling.config import AS_TRAINED, GREEDY, SamplingConfig
    from gpt2_runtime.scoring.perplexity import Perplexity, perplexity, score_windows
    from gpt2_runtime.scoring.score import TokenScore, score, score_prompt
    from gpt2_runtime.text.batch import Prompt, Result, complete_batch
    from gpt2_runtime.text.completion import Completion, TokenLogprob
    from gpt2_runtime.text.generator import BeamCompletion, TextGenerator, TextStream
    from gpt2_runtime.tokenizer.tokenizer import Tokenizer

__version__ = "0.1.0"

# Where each public name lives; loaded on first use, so that the command answers Ctrl-C before numpy is imported.
HOMES = {
    "TextGenerator": "text.generator",
    "TextStream": "text.generator",
    "Completion": "text.completion",
    "TokenLogprob": "text.completion",
    "BeamCompletion": "text.generator",
    "complete_batch": "text.batch",
    "Prompt": "text.batch",
    "Result": "text.batch",
    "generate": "generation.generate",
    "Token": "generation.events",
    "Finished": "generation.events",
    "Timings": "generation.events",
    "beam_search": "generation.beam_search",
    "Beam": "generation.beam_search",
    "Session": "engine.session",
    "KeyValueCache": "engine.cache",
    "Bundle": "folder.bundle",
    "Tokenizer": "tokenizer.tokenizer",
    "GenerationConfig": "generation.config",
    "SamplingConfig": "sampling.config",
    "AS_TRAINED": "sampling.config",
    "GREEDY": "sampling.config",
    "LookupConfig": "generation.prompt_lookup",
    "PrefixCache": "generation.prefix_cache",
    "score": "scoring.score",
    "score_prompt": "scoring.score",
    "TokenScore": "scoring.score",
    "perplexity": "scoring.perplexity",
    "score_windows": "scoring.perplexity",
    "Perplexity": "scoring.perplexity",
    "GPT2RuntimeError": "errors",
}
__all__ = [
    "TextGenerator",
    "TextStream",
    "Completion",
    "TokenLogprob",
    "BeamCompletion",
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
    "GenerationConfig",
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
    "GPT2RuntimeError",
]


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
