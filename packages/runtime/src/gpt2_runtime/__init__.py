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

>>> TextGenerator.open(folder).complete("To be", max_new_tokens=5, seed=1).finish_reason
'length'
"""

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
