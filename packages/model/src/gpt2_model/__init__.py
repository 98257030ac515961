"""GPT-2 from scratch in PyTorch.

config.py       GPT2Config: the sizes and flags of the arithmetic
inert_fields.py the fields of config.json that cannot change a logit, with reasons
gpt2.py         the network
checkpoint.py   a folder or a Hub repository -> config.json and mapped tensors
  hub.py          downloads a repository's files and checks their hashes
  weight_files.py picks the weight files and maps each tensor; pickle_file.py
  layouts.py      wrapped names, other heads, Linear matrices, padding -> transformers' names and layout
  nanogpt.py      nanoGPT's model_args -> config.json's fields; mingpt.py, the same for minGPT
  foreign.py      formats that are not read, and what to do about each
  text_file.py    reads text files: regular files of a bounded size
weights.py      tensors -> the network's parameters: one table; misfits.py reports what does not fit
quoting.py      how names and values are shown in messages
compiler.py     keeps torch's compiler from making its cache folder
generate.py     the plain decode loop
errors.py       the tree of errors
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
