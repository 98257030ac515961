"""Which graph of a folder runs, and how: what precision, provider and settings allow."""

from __future__ import annotations

from typing import get_args

from gpt2_runtime.errors import BundleError, SettingError, check_flag, shown
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.providers.providers import Provider

HEAD_MULTIPLE = 8  # GroupQueryAttention's heads, on which the serving graph is built
CACHES = {"fp16": "float16"}  # of the serving graph, where keys and values are not float32
BLOCKS = ("int8", "int4")  # whose products give a row without a partner other bits: see `plan`


def choose_graph(bundle: Bundle, precision: str, provider: Provider, graph: GraphKind | None) -> GraphKind:
    """The kind of graph to open: the one that is asked for, or else the fastest one that folder and provider have.

    Raises:
        BundleError: the folder lacks the one asked for.
        SettingError: there is no such kind, or the provider cannot run it.
    """
    serves = provider.name == "cpu" or precision in CACHES  # GroupQueryAttention's kernel for CUDA is of float16 alone
    if graph is None:
        return "serving" if serves and "serving" in bundle.graphs.get(precision, {}) else "portable"
    if not isinstance(graph, str) or graph not in get_args(GraphKind):
        raise SettingError(f"graph is {shown(graph)}, must be {' or '.join(get_args(GraphKind))}")
    if graph == "serving" and not serves:
        told = f"graph is 'serving', which has no {precision} kernel on {provider.name}"
        raise SettingError(f"{told}; pass --graph portable or --precision {next(iter(CACHES))}")
    head = bundle.architecture.head_dim
    if graph == "serving" and head % HEAD_MULTIPLE:
        told = f"heads are {head} wide, the serving graph needs a multiple of {HEAD_MULTIPLE}"
        raise BundleError(f"{bundle.folder} has no serving graph: its {told}; pass --graph portable")
    return graph


def runs_evenly(precision: str, device: str, fast_single: bool) -> bool:
    """Whether every product is to have an even number of rows.

    Raises:
        SettingError: `fast_single` is not a boolean, or would change nothing.

    >>> runs_evenly("int8", "cpu", False), runs_evenly("int8", "cpu", True), runs_evenly("fp32", "cpu", False)
    (True, False, False)
    """
    check_flag("fast_single", fast_single)
    blocks = precision in BLOCKS and device == "cpu"
    if fast_single and not blocks:
        told = f"fast_single is on, which is for {' and '.join(BLOCKS)} on the CPU, not {precision} on {device}"
        raise SettingError(f"{told}; leave it off")
    return blocks and not fast_single
