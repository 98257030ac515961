"""GPT-2 written out by hand in PyTorch.

config.py       GPT2Config: the sizes and flags of the arithmetic
inert_fields.py the fields of config.json on which no logit depends, with reasons
gpt2.py         the network
checkpoint.py   a folder or a hub repository -> config.json and mapped tensors
  hub.py          what is fetched, and held to its hashes
  weight_files.py the files that hold tensors: which are read, and each tensor mapped; pickle_file.py
  layouts.py      wrapped names, other heads, Linear matrices, padding -> transformers' names and layout
  nanogpt.py      what nanoGPT's checkpoint says of itself -> config.json's fields; mingpt.py, the same of minGPT
  foreign.py      what is not read, and what to do about it
  text_file.py    text files: plain, of a bounded size
weights.py      tensors -> the network's parameters: one table; misfits.py, what does not fit it
quoting.py      how names and values are shown in messages
compiler.py     torch's compiler, and the folder that it need not make
generate.py     the plain decode loop
errors.py       what can go wrong
"""

from gpt2_model.config import GPT2Config
from gpt2_model.errors import (
    CheckpointError,
    CheckpointWarning,
    ConfigError,
    GPT2Error,
    SourceError,
    TensorError,
    WeightFileError,
)
from gpt2_model.generate import generate
from gpt2_model.gpt2 import GPT2, Cache, KeyValue

__version__ = "0.1.0"
__all__ = [
    "GPT2",
    "GPT2Config",
    "generate",
    "Cache",
    "KeyValue",
    "GPT2Error",
    "ConfigError",
    "CheckpointError",
    "CheckpointWarning",
    "SourceError",
    "WeightFileError",
    "TensorError",
]
