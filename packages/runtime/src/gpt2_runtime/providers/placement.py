"""Where the operators of an open graph run: all on its provider, except those that its row leaves to the CPU.

Every graph is checked, on every provider, wherever tensors live. On the CPU provider there is nothing to refuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt2_runtime.errors import ProviderError
from gpt2_runtime.providers.provider import Provider

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

# The most of one kind in our graphs, besides one per layer. Operators on tensors would be two per layer.
MOST_SIZES = 4


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How many operators run on the provider, and which ones on the CPU instead: operator -> how many.

    On the CPU's own provider all of them do, uncounted (None) where onnxruntime is older than 1.24.
    """

    provider: int | None
    cpu: Mapping[str, int]


def record(options: SessionOptions) -> None:
    """Makes a session opened with these options record where its operators run, which takes no time."""
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")


def placed(inference: InferenceSession, provider: Provider, layers: int) -> Placement:
    """The placement of all operators, checked.

    Args:
        inference: opened with options passed to `record`, and checked with `check_provider`.
        provider: the provider that it was opened on.
        layers: the number of layers.

    Raises:
        ProviderError: an operator that computes would run on the CPU, or onnxruntime is too old to report it.

    >>> placed(session.opened.inference, session.provider, 2).cpu
    {}
    """
    if not hasattr(inference, "get_provider_graph_assignment_info"):
        if provider.is_fallback:  # the session has no other
            return Placement(provider=None, cpu={})
        raise ProviderError(
            f"provider {provider.name} needs {provider.package} 1.24 or newer, which reports where operators run; "
            f"pip install --upgrade 'gpt2-runtime[{provider.name}]'"
        )
    found = Counter(
        (part.ep_name == provider.execution_provider, node.op_type)
        for part in inference.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )
    cpu = {operator: count for (there, operator), count in sorted(found.items()) if not there}
    strays = [name for name, count in cpu.items() if name not in provider.left_to_cpu or count > MOST_SIZES + layers]
    if strays or not found:
        named = ", ".join(f"{name} ({cpu[name]})" for name in strays) or "all"
        raise ProviderError(
            f"provider {provider.name} would leave operators to the CPU: {named}; this onnxruntime has no kernel for "
            f"them; pass another graph or precision, or provider='cpu'"
        )
    return Placement(provider=sum(count for (there, _), count in found.items() if there), cpu=cpu)
