"""What a row of the table of providers says: all that the rest of the package has to know of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from gpt2_runtime.providers.threads import choose_threads

if TYPE_CHECKING:
    from onnxruntime import OrtValue

    from gpt2_runtime.providers.plugin import Plugin

FALLBACK = "CPUExecutionProvider"  # onnxruntime gives it what the others do not take

PRECISIONS = ("fp32", "fp16", "int8", "int4")

# These compute sizes from sizes, a few integers each. onnxruntime leaves them on the CPU, where the result is needed.
SIZES = frozenset(
    {"Add", "Cast", "Concat", "Gather", "Mul", "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)


@dataclass(frozen=True, kw_only=True)
class TensorMemory:
    """Where tensors live; `device` is onnxruntime's name for it.

    >>> HOST.on_host, TensorMemory(device="cuda").on_host
    (True, False)
    """

    device: str

    @property
    def on_host(self) -> bool:
        """Whether numpy can read and write them where they lie."""
        return self.device == "cpu"

    def holds(self, tensor: OrtValue) -> bool:
        """Whether a tensor of onnxruntime's lives here."""
        return bool(tensor.device_name() == self.device)


HOST = TensorMemory(device="cpu")


def built_in(onnxruntime: ModuleType) -> None:
    """Needs nothing but what onnxruntime is built with."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A provider: how onnxruntime calls it, what it runs and how, and what it is refused for.

    Attributes:
        name: what users call it, and the extra of this package that installs it.
        execution_provider: onnxruntime's name for it.
        package: the distribution of onnxruntime that has it, or that its plugin is for.
        plugin: the package that brings it, where onnxruntime is not built with it.
        tensors: where its tensors live.
        graphs: a kind of graph -> the precisions in which it runs it. What `explain` opens is of the operators of the
            portable one.
        options: of onnxruntime's provider.
        capture: the options that have it capture a step and replay it; empty where it cannot.
        threads: what was asked for -> how many threads an operator gets.
        evenly: the precisions in which a row without a partner would get other bits: see `step_plan.plan`.
        widens_float16: whether it multiplies by a float32 copy of what is stored in float16, and reads that in a step.
        promises: whether `promise.EQUALITIES` was tested on it.
        left_to_cpu: the operators that it may leave to the CPU, a few of each. They are listed; all others are refused.
        needs: what is missing where it does not start, besides itself.
        prepare: loads what it is linked with; a ProviderError where this machine cannot run it.
    """

    name: str
    execution_provider: str
    package: str
    tensors: TensorMemory
    graphs: Mapping[str, tuple[str, ...]]
    plugin: Plugin | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    capture: Mapping[str, str] = field(default_factory=dict)
    threads: Callable[[int | None], int] = choose_threads
    evenly: tuple[str, ...] = ()
    widens_float16: bool = False
    promises: bool = False
    left_to_cpu: frozenset[str] = SIZES
    needs: str = "its driver"
    prepare: Callable[[ModuleType], None] = built_in

    @property
    def is_fallback(self) -> bool:
        """Whether it is itself what onnxruntime falls back to: then nothing can be left to another."""
        return self.execution_provider == FALLBACK

    def runs(self, graph: str, precision: str) -> bool:
        """Whether it runs a graph of that kind in that precision."""
        return precision in self.graphs.get(graph, ())

    def capturing(self) -> Provider:
        """The same, with the options that have it capture a step."""
        return replace(self, options={**self.options, **self.capture})


# Every one of our graphs in every precision.
ALL_GRAPHS: Mapping[str, tuple[str, ...]] = MappingProxyType({"serving": PRECISIONS, "portable": PRECISIONS})
