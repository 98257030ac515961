"""A row of the table of providers: everything that the rest of the package needs to know about one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from gpt2_runtime.precisions import PRECISIONS
from gpt2_runtime.providers.threads import choose_threads

if TYPE_CHECKING:
    from onnxruntime import OrtValue

    from gpt2_runtime.providers.plugin import Plugin

FALLBACK = "CPUExecutionProvider"  # onnxruntime assigns it what the others do not take


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
        """Whether numpy can access them in place."""
        return self.device == "cpu"

    def holds(self, tensor: OrtValue) -> bool:
        """Whether this onnxruntime tensor is in this memory."""
        return bool(tensor.device_name() == self.device)


HOST = TensorMemory(device="cpu")


def built_in(onnxruntime: ModuleType) -> None:
    """Prepares nothing: onnxruntime has it built in."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A provider: its names, the graphs that it runs, its options, and what it requires.

    Attributes:
        name: its name for users, and the extra of this package that installs it.
        execution_provider: onnxruntime's name for it.
        package: the onnxruntime distribution that has it, or that its plugin is for.
        plugin: the package that provides it, if it is not built into onnxruntime.
        tensors: where its tensors live.
        graphs: kind of graph -> the precisions in which it runs it. The explaining graph has the operators of the
            portable one.
        options: the options of onnxruntime's provider.
        capture: the options for capturing and replaying a step; empty if it cannot.
        threads: requested threads -> threads per operator.
        evenly: the precisions in which a row without a partner would get different bits: see `step_plan.plan`.
        widens_float16: whether each step reads a float32 copy of weights that are stored in float16.
        promises: whether `promise.EQUALITIES` was tested on it.
        left_to_cpu: the operators that it may leave to the CPU, a few of each. They are listed; all others are refused.
        needs: what may be missing if it does not start, besides itself.
        prepare: loads its libraries; raises ProviderError if this machine cannot run it.
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
        """Whether it is onnxruntime's fallback itself, so that nothing can be left to another one."""
        return self.execution_provider == FALLBACK

    def runs(self, graph: str, precision: str) -> bool:
        """Whether it runs a graph of that kind in that precision."""
        return precision in self.graphs.get(graph, ())

    def capturing(self) -> Provider:
        """The same provider, with the options for capturing a step."""
        return replace(self, options={**self.options, **self.capture})


# Every one of our graphs in every precision.
ALL_GRAPHS: Mapping[str, tuple[str, ...]] = MappingProxyType({"serving": PRECISIONS, "portable": PRECISIONS})
