"""The effect of each choice in the engine: the same folder opened in other ways, interleaved in one process.

    python benchmarks/variants.py FOLDER
    python benchmarks/variants.py FOLDER --rounds 9 --only "4 KB pages"

Requires gpt2-runtime, and gpt2-export for "residuals and norms fused". A number is the time of a workload in another
way relative to the default: the median over rounds of the ratio within a round. Above 1, the default is right.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np
from gpt2_runtime import Bundle
from gpt2_runtime.engine import serving_graph
from gpt2_runtime.engine.packed_session import PackedSession
from gpt2_runtime.engine.portable_graph import PortableGraph
from gpt2_runtime.providers.huge_pages import on_huge_pages
from gpt2_runtime.providers.providers import load_onnxruntime
from works import WORKS, Work

onnxruntime = load_onnxruntime()

MEASURED = ("decode", "context", "prefill", "batch")
STEPS = 32  # decoding steps per round, at most
PAUSE = 0.1  # until spinning threads are asleep


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of opening the folder."""

    kind: str = "serving"
    entries: dict[str, str] = field(default_factory=dict)  # config entries of onnxruntime's session
    huge: bool = True
    arena: bool = True
    threads: int = 0  # added to the requested number
    chunk: int = serving_graph.PREFILL_CHUNK
    fused: bool = False
    even: bool = False

    def open(self, bundle: Bundle, precision: str, threads: int) -> serving_graph.ServingGraph | PortableGraph:
        path = bundle.graph(precision, self.kind)
        inference = self.session(fused(path) if self.fused else str(path), bundle, threads)
        if self.kind == "portable":
            return PortableGraph(inference=inference, sizes=bundle.architecture, device="cpu")
        engine = PackedSession(lambda packed: inference, [], packed=True)
        return serving_graph.ServingGraph(engine=engine, sizes=bundle.architecture, even=self.even)

    def session(self, graph: str | bytes, bundle: Bundle, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, threads + self.threads)
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = self.arena
        # The location of the weights, for a graph that is not in a file.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.folder))
        for name, value in self.entries.items():
            options.add_session_config_entry(name, value)
        with on_huge_pages() if self.huge else nullcontext():
            return onnxruntime.InferenceSession(graph, options)


BASE = "as it is"
EVEN = "a row alone as two"  # as in int8 and int4, unless opened with fast_single
WAYS = {
    BASE: Way(),
    "weights as they lie in the file": Way(entries={"session.disable_prepacking": "1"}, huge=False),
    "4 KB pages": Way(huge=False),
    "without onnxruntime's arena": Way(arena=False),
    "threads that sleep at once": Way(entries={"session.intra_op.allow_spinning": "0"}),
    "one thread less": Way(threads=-1),
    "one thread more": Way(threads=1),
    "the portable graph": Way(kind="portable"),
    "residuals and norms fused": Way(fused=True),
    EVEN: Way(even=True),
    "prefill in chunks of 128": Way(chunk=128),
    "prefill in chunks of 512": Way(chunk=512),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", choices=[way for way in WAYS if way != BASE], metavar="WAY")
    parser.add_argument("--precision", default="fp32", help="(default: fp32)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    options = parser.parse_args()
    bundle = Bundle.open(options.folder)
    ratios: dict[str, dict[str, float]] = {}
    base = opened(bundle, BASE, options.precision, options.threads)
    for name in options.only or [way for way in WAYS if way != BASE]:
        # Two at a time: all together would take several gigabytes.
        other = opened(bundle, name, options.precision, options.threads)
        ratios[name] = compare(base, other, options.rounds)
    print(f"{'':<34}" + "".join(f"{name:>10}" for name in MEASURED))
    for name, found in ratios.items():
        print(f"{name:<34}" + "".join(f"{found[work]:>10.2f}" for work in MEASURED))


def opened(bundle: Bundle, name: str, precision: str, threads: int) -> Callable[[Work], float]:
    """An opened way: returns the seconds that a workload takes."""
    return timed(WAYS[name].open(bundle, precision, threads), bundle, WAYS[name].chunk)


def timed(
    graph: serving_graph.ServingGraph | PortableGraph, bundle: Bundle, chunk: int = serving_graph.PREFILL_CHUNK
) -> Callable[[Work], float]:
    """An opened graph: returns the seconds that a workload takes."""

    def seconds(work: Work) -> float:
        serving_graph.PREFILL_CHUNK = chunk
        prompts = [np.array(prompt) for prompt in work.prompts(bundle.architecture.vocab_size)]
        cache = graph.empty_cache(work.rows, work.prompt + STEPS)
        start = perf_counter()
        logits, cache = graph.step(prompts, cache, 1)
        if work.new == 1:
            return perf_counter() - start
        start = perf_counter()
        for _ in range(min(STEPS, work.new - 1)):
            logits, cache = graph.step(list(logits[:, -1].argmax(-1)[:, None]), cache, 1)
        return perf_counter() - start

    for work in MEASURED:  # once unmeasured, to allocate buffers
        seconds(WORKS[work])
    return seconds


def fused(path: Path) -> bytes:
    """The serving graph with residual, bias and LayerNorm in one operator, SkipLayerNormalization."""
    import onnx_ir as ir  # installed with gpt2-export; only this way needs it

    model = ir.load(path)
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        residual = norm.inputs[0].producer()
        if residual.op_type != "Add":  # the last one: rows are selected in between
            continue
        stream, x = residual.inputs
        adds = [node for node in (x.producer(), residual) if node.op_type == "Add"]
        x, *bias = adds[0].inputs if len(adds) == 2 else [x]  # the embeddings have none
        skip = ir.node(
            "SkipLayerNormalization",
            [x, stream, *norm.inputs[1:], *bias],
            {"epsilon": norm.attributes["epsilon"].as_float()},
            domain="com.microsoft",
            num_outputs=4,
        )
        old, new = (residual.outputs[0], norm.outputs[0]), (skip.outputs[3], skip.outputs[0])
        ir.convenience.replace_nodes_and_values(model.graph, norm, [*adds, norm], [skip], old, new)
    return ir.to_proto(model).SerializeToString()


def compare(base: Callable[[Work], float], other: Callable[[Work], float], rounds: int) -> dict[str, float]:
    """For each workload, the other way's time relative to the default."""
    found: dict[str, list[float]] = {work: [] for work in MEASURED}
    for _ in range(rounds):
        for work in MEASURED:
            times = []
            for seconds in (base, other):
                sleep(PAUSE)
                times.append(seconds(WORKS[work]))
            found[work].append(times[1] / times[0])
    return {work: median(values) for work, values in found.items()}


if __name__ == "__main__":
    main()
