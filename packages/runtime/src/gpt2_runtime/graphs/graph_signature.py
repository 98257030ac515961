"""The inputs and outputs that each kind of graph must have: names, types and axes; refuses a graph that differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2_runtime.errors import GraphError
from gpt2_runtime.folder.bundle import Architecture

GraphKind = Literal["serving", "portable"]
PARTS = ("key", "value")
ELEMENTS = {"float32": "float", "float16": "float16"}  # ONNX's names


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """The name, element type and axes of a graph's input or output; a dynamic axis has a name."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """All inputs and outputs of a graph.

    >>> sizes = session.bundle.architecture
    >>> [spec.name for spec in Signature.of("serving", sizes).inputs][:3]
    ['input_ids', 'position_ids', 'seqlens_k']
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, kind: GraphKind, sizes: Architecture, cache: str = "float32") -> Signature:
        """The signature that a graph of this kind must have, for these sizes and this type of keys and values."""
        return _serving(sizes, cache) if kind == "serving" else _portable(sizes)

    @classmethod
    def explaining(cls, sizes: Architecture) -> Signature:
        """The signature that the explaining graph must have."""
        return _explaining(sizes)

    def check(self, where: str, expected: Signature, kind: str) -> None:
        """Raises a GraphError starting with `where` if a name, type, rank or fixed axis differs."""
        _check(f"{where}: input", kind, self.inputs, expected.inputs)
        _check(f"{where}: output", kind, self.outputs, expected.outputs)


def cache_names(prefix: str, n_layer: int) -> list[str]:
    """The names of the keys and values of all layers, in the graph's order.

    >>> cache_names("present", 1)
    ['present.0.key', 'present.0.value']
    """
    return [f"{prefix}.{layer}.{part}" for layer in range(n_layer) for part in PARTS]


def _serving(sizes: Architecture, cache: str) -> Signature:
    return Signature(
        inputs=(
            TensorSpec(name="input_ids", type="tensor(int64)", shape=("batch_size", "sequence_length")),
            TensorSpec(name="position_ids", type="tensor(int64)", shape=("batch_size", "sequence_length")),
            TensorSpec(name="seqlens_k", type="tensor(int32)", shape=("batch_size",)),
            TensorSpec(name="total_sequence_length", type="tensor(int32)", shape=()),
            TensorSpec(name="logits_index", type="tensor(int64)", shape=("logits_count",)),
            *_cache("past_key_values", "cache_length", sizes, cache),
        ),
        outputs=(
            TensorSpec(name="logits", type="tensor(float)", shape=("logits_count", sizes.vocab_size)),
            *_cache("present", "cache_length", sizes, cache),
        ),
    )


def _portable(sizes: Architecture) -> Signature:
    logits = ("batch_size", "sequence_length", sizes.vocab_size)
    return Signature(
        inputs=(
            TensorSpec(name="input_ids", type="tensor(int64)", shape=("batch_size", "sequence_length")),
            TensorSpec(name="attention_mask", type="tensor(int64)", shape=("batch_size", "total_sequence_length")),
            TensorSpec(name="position_ids", type="tensor(int64)", shape=("batch_size", "sequence_length")),
            *_cache("past_key_values", "past_sequence_length", sizes),
        ),
        outputs=(
            TensorSpec(name="logits", type="tensor(float)", shape=logits),
            *_cache("present", "total_sequence_length", sizes),
        ),
    )


def _explaining(sizes: Architecture) -> Signature:
    def spec(name: str, *shape: int | str, element: str = "float") -> TensorSpec:
        return TensorSpec(name=name, type=f"tensor({element})", shape=shape)

    text = ("batch_size", "sequence_length")
    lens = (sizes.n_layer + 1, *text)
    attention = ("batch_size", sizes.n_head, "sequence_length", "sequence_length")
    return Signature(
        inputs=(
            spec("input_ids", *text, element="int64"),
            spec("target_ids", *text, element="int64"),
            spec("top_k", element="int64"),
        ),
        outputs=(
            spec("logits", *text, sizes.vocab_size),
            spec("lens_ids", *lens, "top_k", element="int64"),
            spec("lens_log_probs", *lens, "top_k"),
            spec("lens_target_log_probs", *lens),
            *(spec(f"attentions.{layer}", *attention) for layer in range(sizes.n_layer)),
        ),
    )


def _cache(prefix: str, length: str, sizes: Architecture, cache: str = "float32") -> list[TensorSpec]:
    shape, kind = ("batch_size", sizes.n_head, length, sizes.head_dim), f"tensor({ELEMENTS[cache]})"
    return [TensorSpec(name=name, type=kind, shape=shape) for name in cache_names(prefix, sizes.n_layer)]


def _check(where: str, kind: str, actual: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> None:
    by_name = {spec.name: spec for spec in actual}
    names = [spec.name for spec in expected]
    missing = [name for name in names if name not in by_name]
    unexpected = [name for name in by_name if name not in names]
    if missing or unexpected:
        problem = f"missing {', '.join(missing) or 'none'}; unexpected {', '.join(unexpected) or 'none'}"
        raise GraphError(f"{where}s are not the {kind} graph's: {problem}; export the folder again")
    for spec in expected:
        other = by_name[spec.name]
        if other.type != spec.type or _fixed_axes(other.shape) != _fixed_axes(spec.shape):
            is_, must = f"{other.type} {list(other.shape)}", f"{spec.type} {list(spec.shape)}"
            raise GraphError(f"{where} {spec.name} is {is_}, config.json requires {must}; export the folder again")


def _fixed_axes(shape: Sequence[int | str]) -> list[int | None]:
    return [axis if isinstance(axis, int) else None for axis in shape]
