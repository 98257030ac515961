"""A checkpoint's tensors -> the network's parameters, by name, strict in both directions.

`TABLE` maps all of transformers' names; `layouts` converts other programs' names to those. A row has a tensor's name
in files, its name in the network, and whether it is transposed: OpenAI's Conv1D stores [in, out], torch's Linear
[out, in]. The name decides, never the shape: a square matrix looks the same both ways.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from os import PathLike

import torch
from torch import Tensor

from gpt2_model.checkpoint import Checkpoint, open_checkpoint
from gpt2_model.compiler import no_compiler_folder
from gpt2_model.config import GPT2Config, read_hf
from gpt2_model.errors import CheckpointWarning, TensorError
from gpt2_model.gpt2 import GPT2
from gpt2_model.misfits import DTYPE, MISSING, SHAPE, TWICE, UNEXPECTED, report
from gpt2_model.quoting import name_shown

KEEP, TRANSPOSE, DROP = "keep", "transpose", "drop"

# Name in the file, name in the network, action. The prefix `transformer.` is optional: openai-community/gpt2 and
# anything saved as a bare GPT2Model lack it.
TABLE = (
    (r"wte\.weight", r"wte.weight", KEEP),
    (r"wpe\.weight", r"wpe.weight", KEEP),
    (r"h\.(\d+)\.(ln_1|ln_2)\.(weight|bias)", r"h.\1.\2.\3", KEEP),
    (r"h\.(\d+)\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight", r"h.\1.\2.weight", TRANSPOSE),
    (r"h\.(\d+)\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.bias", r"h.\1.\2.bias", KEEP),
    (r"h\.(\d+)\.attn\.(bias|masked_bias)", r"", DROP),  # the causal mask and its constant, saved as buffers
    (r"ln_f\.(weight|bias)", r"ln_f.\1", KEEP),
    (r"lm_head\.weight", r"lm_head.weight", KEEP),
    (r"lm_head\.decoder\.weight", r"lm_head.weight", KEEP),  # old DialoGPT
)

UNTIED = "config.json ties the head to the embedding, but the file has a different head: it is kept, untied"
READ_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file and the parameter it becomes."""

    stored_name: str
    parameter: str
    transposed: bool


@dataclass(frozen=True, kw_only=True)
class WeightPlan:
    """How a checkpoint's tensors make a model: a config (tied if they are) and one entry per parameter.

    `warnings` lists what may not be read as intended.
    """

    config: GPT2Config
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()


def map_tensor_name(stored_name: str) -> tuple[str, str]:
    """The parameter's name and the action for a tensor, from `TABLE`; ("", "") if it is unknown.

    >>> map_tensor_name("transformer.h.3.mlp.c_fc.weight")
    ('h.3.mlp.c_fc.weight', 'transpose')
    >>> map_tensor_name("h.3.attn.bias")
    ('', 'drop')
    """
    name = stored_name.removeprefix("transformer.")
    for pattern, parameter, action in TABLE:
        if match := re.fullmatch(pattern, name):
            return match.expand(parameter), action
    return "", ""


def plan_weights(checkpoint: Checkpoint, *, ignore_config: Collection[str] = ()) -> WeightPlan:
    """Matches a tensor to each parameter, and decides whether the head is tied.

    A head that differs from the embedding is kept even if config.json ties them, as in transformers 5 (version 4 tied
    it and so changed the model's output).

    Raises:
        ConfigError: config.json is refused.
        TensorError: tensors are missing, unexpected, duplicated, or of the wrong shape or type.
    """
    config, remarks = read_hf(checkpoint.config, ignore=ignore_config)
    entries: dict[str, Entry] = {}
    misfits: dict[str, list[str]] = {kind: [] for kind in (MISSING, UNEXPECTED, TWICE, SHAPE, DTYPE)}
    for stored_name in sorted(checkpoint.tensors):
        parameter, action = map_tensor_name(stored_name)
        if action == DROP:
            continue
        if not action:
            misfits[UNEXPECTED].append(f"unexpected {name_shown(stored_name)}")
        elif parameter in entries:
            twice = f"{name_shown(entries[parameter].stored_name)} and {name_shown(stored_name)}"
            misfits[TWICE].append(f"{twice} are the same parameter")
        else:
            entries[parameter] = Entry(stored_name=stored_name, parameter=parameter, transposed=action == TRANSPOSE)

    if config.tie_word_embeddings and "lm_head.weight" in entries:
        head = entries.pop("lm_head.weight")
        if "wte.weight" not in entries:
            entries["wte.weight"] = replace(head, parameter="wte.weight")
        elif not _equal(checkpoint, head.stored_name, entries["wte.weight"].stored_name):
            config = replace(config, tie_word_embeddings=False)
            entries["lm_head.weight"] = head
            remarks += (UNTIED,)

    if config.n_layer > len(checkpoint.tensors):  # planning a network of a million layers takes minutes
        raise TensorError(
            f"{checkpoint.folder}: config.json says {config.n_layer} layers, "
            f"but there are {len(checkpoint.tensors)} tensors in all"
        )
    expected = parameter_shapes(config)
    shapes = {name: tuple(checkpoint.tensors[entry.stored_name]().shape) for name, entry in entries.items()}
    misfits[UNEXPECTED] += [
        f"unexpected {name_shown(entries[name].stored_name)}" for name in sorted(entries.keys() - expected.keys())
    ]
    misfits[MISSING] += [f"missing {name}" for name in expected if name not in entries]
    for name in (name for name in expected if name in entries):
        entry = entries[name]
        shape = expected[name][::-1] if entry.transposed else expected[name]
        if shapes[name] != shape:
            misfits[SHAPE].append(f"{entry.stored_name} has shape {list(shapes[name])}, config.json says {list(shape)}")
        dtype = checkpoint.tensors[entry.stored_name]().dtype
        if dtype not in READ_DTYPES:
            read = ", ".join(map(plain, READ_DTYPES))
            misfits[DTYPE].append(f"{entry.stored_name} is {plain(dtype)}, only {read} are read")
    if any(misfits.values()):
        raise TensorError(f"{checkpoint.folder}: {report(misfits, _sizes(config, shapes))}")
    return WeightPlan(
        config=config, entries=tuple(entries[name] for name in expected), warnings=checkpoint.warnings + remarks
    )


def parameter_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The name and shape of each parameter, in the network's order; a tied head is not listed.

    Nothing is allocated: the sizes in config.json may be too large for any memory.

    >>> parameter_shapes(GPT2Config())["h.0.attn.c_attn.weight"]
    (2304, 768)
    """
    V, C, inner = config.vocab_size, config.n_embd, config.inner_size
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (config.n_positions, C)}
    for layer in range(config.n_layer):
        shapes |= _norm(f"h.{layer}.ln_1", C)
        shapes |= _linear(f"h.{layer}.attn.c_attn", C, 3 * C)
        shapes |= _linear(f"h.{layer}.attn.c_proj", C, C)
        shapes |= _norm(f"h.{layer}.ln_2", C)
        shapes |= _linear(f"h.{layer}.mlp.c_fc", C, inner)
        shapes |= _linear(f"h.{layer}.mlp.c_proj", inner, C)
    shapes |= _norm("ln_f", C)
    return shapes if config.tie_word_embeddings else shapes | {"lm_head.weight": (V, C)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def load(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    ignore_config: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> GPT2:
    """Loads a checkpoint as a network in eval mode; weights of the right type stay memory-mapped.

    Args:
        source: a folder, or a repository on the Hub.
        revision: branch, tag or commit on the Hub.
        offline: never use the network.
        allow_pickle: read pytorch_model.bin if there are no safetensors.
        ignore_config: unknown fields of config.json to skip; only if they cannot change the logits.
        dtype: the type to compute in.

    Raises:
        GPT2Error: see `gpt2_model.errors`.

    Warns:
        CheckpointWarning: part of the checkpoint was changed or left out.
    """
    checkpoint = open_checkpoint(source, revision=revision, offline=offline, allow_pickle=allow_pickle)
    plan = plan_weights(checkpoint, ignore_config=ignore_config)
    for warning in plan.warnings:
        warnings.warn(warning, CheckpointWarning, stacklevel=2)
    parameters = {entry.parameter: checkpoint.tensors[entry.stored_name]().to(dtype) for entry in plan.entries}
    return build(plan, parameters)


def build(plan: WeightPlan, stored: Mapping[str, Tensor]) -> GPT2:
    """The network around tensors in the file's layout, keyed by parameter; nothing is copied."""
    with no_compiler_folder(), torch.device("meta"):
        model = GPT2(plan.config)
    turned = {e.parameter: stored[e.parameter].t() if e.transposed else stored[e.parameter] for e in plan.entries}
    if plan.config.tie_word_embeddings:
        turned["lm_head.weight"] = turned["wte.weight"]
    model.load_state_dict(turned, strict=True, assign=True)
    if plan.config.tie_word_embeddings:
        model.lm_head.weight = model.wte.weight  # assigning made two parameters from one tensor
    return model.eval()


def stored_tensors(model: GPT2) -> dict[str, Tensor]:
    """The network's parameters as stored in a file: transformers' names, Conv1D's [in, out], a tied head once.

    >>> tiny = GPT2(GPT2Config(vocab_size=9, n_positions=4, n_embd=6, n_layer=1, n_head=2))
    >>> stored_tensors(tiny)["transformer.h.0.attn.c_attn.weight"].shape
    torch.Size([6, 18])
    """
    return {
        stored_name(name): (parameter.t() if map_tensor_name(name)[1] == TRANSPOSE else parameter).detach().contiguous()
        for name, parameter in model.named_parameters()
    }


def stored_name(parameter: str) -> str:
    """The name of a parameter in transformers' GPT2LMHeadModel.

    >>> stored_name("wte.weight"), stored_name("lm_head.weight")
    ('transformer.wte.weight', 'lm_head.weight')
    """
    return parameter if parameter.startswith("lm_head.") else f"transformer.{parameter}"


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    a, b = checkpoint.tensors[one](), checkpoint.tensors[other]()
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _sizes(config: GPT2Config, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Sizes in config.json, each with that of the tensors."""
    seen: dict[str, tuple[int, int]] = {}
    for field, name, axis in (("vocab_size", "wte", 0), ("n_embd", "wte", 1), ("n_positions", "wpe", 0)):
        shape = shapes.get(f"{name}.weight", ())
        if len(shape) == 2:
            seen[field] = getattr(config, field), shape[axis]
    blocks = {name.split(".")[1] for name in shapes if name.startswith("h.")}
    return seen | {"n_layer": (config.n_layer, len(blocks))}


def plain(dtype: torch.dtype) -> str:
    """A dtype's name in config.json.

    >>> plain(torch.float64)
    'float64'
    """
    return str(dtype).removeprefix("torch.")
