"""Chooses which graph of a folder runs, and how, from the precision, provider and settings."""

from __future__ import annotations

from typing import get_args

from gpt2_runtime.arguments import check_choice, check_flag
from gpt2_runtime.errors import BundleError, SettingError
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.providers.provider import Provider
from gpt2_runtime.providers.providers import PROVIDERS

KINDS: tuple[GraphKind, ...] = get_args(GraphKind)  # the fastest first; the last one is in every folder
HEAD_MULTIPLE = 8  # required by GroupQueryAttention, which the serving graph uses


def choose_graph(bundle: Bundle, precision: str, provider: Provider, graph: GraphKind | None) -> GraphKind:
    """The kind of graph to open: the requested one, or else the fastest that folder and provider support.

    Raises:
        BundleError: the folder does not have the requested graph.
        SettingError: there is no such kind, or the provider cannot run it.
    """
    if graph is None:
        held = bundle.graphs.get(precision, {})
        fastest = next((kind for kind in KINDS if kind in held and provider.runs(kind, precision)), KINDS[-1])
        check_graph(provider, fastest, precision)
        return fastest
    check_choice("graph", graph, KINDS)
    check_graph(provider, graph, precision)
    head = bundle.architecture.head_dim
    if graph == "serving" and head % HEAD_MULTIPLE:
        problem = f"heads are {head} wide, the serving graph needs a multiple of {HEAD_MULTIPLE}"
        raise BundleError(
            f"{bundle.folder} has no serving graph: its {problem}; pass graph='portable'",
            parameter="graph",
            value=graph,
        )
    return graph


def check_graph(provider: Provider, graph: GraphKind, precision: str) -> None:
    """Raises SettingError for a graph that the provider cannot run in that precision."""
    if provider.runs(graph, precision):
        return
    others = [f"graph={kind!r}" for kind in KINDS if provider.runs(kind, precision)]
    remedies = [*others, *(f"precision={each!r}" for each in provider.graphs.get(graph, ())), "another provider"]
    problem = f"graph is '{graph}', which has no {precision} kernel on {provider.name}"
    raise SettingError(f"{problem}; pass {' or '.join(remedies)}", parameter="graph", value=graph)


def runs_evenly(precision: str, provider: Provider, fast_single: bool) -> bool:
    """Whether every product must have an even number of rows.

    Raises:
        SettingError: `fast_single` is not a boolean, or would have no effect.

    >>> cpu = session.provider
    >>> runs_evenly("int8", cpu, False), runs_evenly("int8", cpu, True), runs_evenly("fp32", cpu, False)
    (True, False, False)
    """
    check_flag("fast_single", fast_single)
    evenly = precision in provider.evenly
    if fast_single and not evenly:
        rows = (f"{' and '.join(row.evenly)} on {row.name}" for row in PROVIDERS.values() if row.evenly)
        problem = f"fast_single is on, but it is only for {', '.join(rows)}, not {precision} on {provider.name}"
        raise SettingError(f"{problem}; leave it off", parameter="fast_single", value=True)
    return evenly and not fast_single


def capturing(provider: Provider, graph: GraphKind) -> Provider:
    """The provider, set up to capture a step of that graph and replay it.

    Raises:
        SettingError: it cannot.
    """
    if graph != "serving" or not provider.capture:
        able = " or ".join(row.name for row in PROVIDERS.values() if row.capture)
        only = f"the serving graph on {able}"
        problem = f"cuda_graph is on, but it is only for {only}, not the {graph} one on {provider.name}"
        raise SettingError(f"{problem}; leave it off", parameter="cuda_graph", value=True)
    return provider.capturing()
