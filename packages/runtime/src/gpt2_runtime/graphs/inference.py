"""Opens a graph in onnxruntime, on one provider only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2_runtime.errors import GraphError
from gpt2_runtime.graphs.graph_file import GraphFile
from gpt2_runtime.graphs.graph_signature import Signature, TensorSpec
from gpt2_runtime.providers.huge_pages import on_huge_pages
from gpt2_runtime.providers.placement import placed, record
from gpt2_runtime.providers.provider import Provider
from gpt2_runtime.providers.providers import check_provider, load_onnxruntime, named_for

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg, SessionOptions


def open_inference(graph: GraphFile | Path, provider: Provider, threads: int, packed: bool) -> InferenceSession:
    """Opens a graph in onnxruntime, on this provider only; its weights packed for the processor, or not.

    Args:
        graph: a graph of a folder, or the path of one of our own graphs without weights.
        provider, threads: the provider, and its number of threads.
        packed: whether to pack its weights.

    Raises:
        BundleError: a file has changed since the folder was opened (GraphError: the graph cannot be opened).
        ProviderError: the provider cannot start, or would leave operators to another one.
    """
    if isinstance(graph, Path):
        inference = _open(str(graph), graph, _options(provider, threads, packed), provider, packed)
        placed(inference, provider, layers=0)
        return inference
    inference = None
    for passed in graph.attempts(packed):
        inference = None  # free the one before first, so that memory never holds both
        options = _options(provider, threads, packed)
        with graph.model(options, passed) as model:
            inference = _open(model, graph.file.path, options, provider, packed)
        if graph.is_held():
            break
    assert inference is not None
    placed(inference, provider, graph.layers)
    return inference


def _options(provider: Provider, threads: int, packed: bool) -> SessionOptions:
    options = load_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A memory pattern is planned for one set of shapes; here shapes differ with every prompt.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # errors come as exceptions; do not also log them to stderr
    record(options)
    if not packed:  # then weights are read in their original layout
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _open(
    model: str | bytes, path: Path, options: SessionOptions, provider: Provider, packed: bool
) -> InferenceSession:
    providers = named_for(options, provider)
    try:
        with on_huge_pages() if packed and provider.tensors.on_host else nullcontext():
            inference: InferenceSession = load_onnxruntime().InferenceSession(
                model,
                sess_options=options,
                providers=providers,
                enable_fallback=0,
            )
    except Exception as error:  # onnxruntime's errors have no other common base
        reason = " ".join(str(error).split())
        raise GraphError(f"{path} cannot be opened: {reason}; check the folder with check_hashes=True") from error
    check_provider(provider, list(inference.get_providers()))
    return inference


def signature_of(inference: InferenceSession) -> Signature:
    """The inputs and outputs of an open graph."""
    return Signature(inputs=_specs(inference.get_inputs()), outputs=_specs(inference.get_outputs()))


def _specs(nodes: Sequence[NodeArg]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=node.name, type=node.type, shape=tuple(node.shape)) for node in nodes)
