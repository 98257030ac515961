"""The precisions other than float32: how each stores the weights, and how its graphs read them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from gpt2_model import GPT2Config
from gpt2_model.weights import map_tensor_name

from gpt2_export.errors import PrecisionError
from gpt2_export.precision import fp16, nbits
from gpt2_export.precision.nbits import BlockSizes
from gpt2_export.weights import safetensors_file
from gpt2_export.weights.initializers import refer_again
from gpt2_export.weights.safetensors_file import Form

FP32 = "fp32"  # the reference, which every folder has
Tensors = Callable[[GPT2Config, Path, Collection[str]], tuple[dict[str, Form], Iterator[np.ndarray]]]


def unmeasurable(config: GPT2Config) -> str | None:
    """Why a precision's loss cannot be measured, or None if it can.

    >>> unmeasurable(GPT2Config(n_positions=1))
    'n_positions is 1, but the loss of a precision is measured on tokens that follow others: 2 or more'
    """
    if config.n_positions == 1:
        return "n_positions is 1, but the loss of a precision is measured on tokens that follow others: 2 or more"
    return None


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A way to store the weights and compute with them.

    Attributes:
        name: its name on the command line.
        suffix: of its files' names; transformers.js looks for model_fp16.onnx, model_int8.onnx and model_q4.onnx.
        max_ppl_increase: the default limit in percent; beyond it nothing is written.
        cache: the dtype of keys and values in the serving graph.
        operators: those its graphs have in addition to float32's.
        tensors: the content of the weights file.
        convert: turns a graph over float32 weights into one over that file.
        dequantized: a matrix [out, in] after rounding, given its parameter's name.
        refusal: why a network cannot have it, or None if it can; the default is common to all.
        op_counts: changes the operator counts that a kind of graph must have.
    """

    name: str
    suffix: str
    max_ppl_increase: float
    cache: ir.DataType = ir.DataType.FLOAT
    operators: frozenset[str]
    tensors: Tensors
    convert: Callable[[ir.Model, GPT2Config, Path], None]
    dequantized: Callable[[str, np.ndarray], np.ndarray]
    refusal: Callable[[GPT2Config], str | None] = unmeasurable
    op_counts: Callable[[GPT2Config, Mapping[str, int]], Mapping[str, int]] = lambda config, counts: counts

    @property
    def weights(self) -> str:
        """The name of its weights file."""
        return f"model_{self.suffix}.safetensors"

    def file(self, name: str) -> str:
        """A graph's name in this precision.

        >>> INT4.file("model.onnx")
        'model_q4.onnx'
        """
        return f"{name.removesuffix('.onnx')}_{self.suffix}.onnx"

    def freeze(self, config: GPT2Config, source: Path, folder: Path, keep: Collection[str] = ()) -> Path:
        """Writes the weights file into `folder`; returns its path.

        Raises:
            PrecisionError: a weight cannot be stored this way, or a name to keep matches no parameter.
        """
        forms, arrays = self.tensors(config, source, kept(source, keep))
        path = folder / self.weights
        safetensors_file.write(path, forms, arrays)
        return path

    def apply(self, model: ir.Model, config: GPT2Config, file: Path) -> None:
        """Changes a graph over float32 weights into one over the file that `freeze` wrote."""
        self.convert(model, config, file)
        refer_again(model, file)


def means(name: str, parameter: str) -> bool:
    """Whether a name of --keep is a prefix of a parameter's.

    >>> means("h.1", "h.1.mlp.c_fc.weight"), means("h.1", "h.11.mlp.c_fc.weight")
    (True, False)
    """
    return f"{parameter}.".startswith(f"{name}.")


def kept(source: Path, names: Collection[str]) -> set[str]:
    """The matrices that `names` match, each a prefix of a parameter's name, such as "h.3", "h.3.mlp.c_proj" or "wte".

    "wpe" counts as one: fp16 halves it, and in the others it is float32 anyway.

    Raises:
        PrecisionError: a name matches none.
    """
    parameters = [map_tensor_name(name)[0] for name in safetensors_file.places(source)]
    matrices = [parameter for parameter in parameters if fp16.is_halved(parameter)]
    kept_matrices = set()
    for name in names:
        meant = {matrix for matrix in matrices if means(name, matrix)}
        if not meant:
            raise PrecisionError(f"there is no matrix {name!r} to keep; valid names are h.0, h.0.mlp.c_proj, wte, wpe")
        kept_matrices |= meant
    return kept_matrices


def named(names: Collection[str]) -> tuple[Precision, ...]:
    """The precisions of these names, most exact first; fp32 is implied and ignored.

    Raises:
        PrecisionError: a name is unknown.

    >>> [precision.name for precision in named(["int4", "fp32", "fp16"])]
    ['fp16', 'int4']
    """
    for name in names:
        if name != FP32 and name not in PRECISIONS:
            raise PrecisionError(f"unknown precision {name!r}; expected one of {', '.join([FP32, *PRECISIONS])}")
    return tuple(precision for precision in PRECISIONS.values() if precision.name in names)


def _nbits(name: str, suffix: str, max_ppl_increase: float, sizes: BlockSizes) -> Precision:
    return Precision(
        name=name,
        suffix=suffix,
        max_ppl_increase=max_ppl_increase,
        operators=nbits.OPERATORS,
        tensors=partial(nbits.tensors, sizes),
        convert=nbits.convert,
        dequantized=partial(nbits.dequantized, sizes),
        refusal=lambda config: unmeasurable(config) or nbits.refusal(config),
    )


FP16 = Precision(
    name="fp16",
    suffix="fp16",
    max_ppl_increase=0.1,
    cache=ir.DataType.FLOAT16,
    operators=fp16.OPERATORS,
    tensors=fp16.tensors,
    convert=fp16.convert,
    dequantized=fp16.dequantized,
    op_counts=fp16.op_counts,
)
# Block sizes: see benchmarks/LIMITS.md for the cost and benefit of each.
INT8 = _nbits("int8", "int8", 0.5, BlockSizes(bits=8, attention=128, mlp=64, head=128))
INT4 = _nbits("int4", "q4", 5.0, BlockSizes(bits=4, attention=64, mlp=64, head=128))

PRECISIONS: Mapping[str, Precision] = {precision.name: precision for precision in (FP16, INT8, INT4)}
"""By name, most exact first."""
