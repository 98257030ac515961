"""Where the time of a step goes: the operators of a folder's serving graph, by onnxruntime's own profiler.

    python benchmarks/studies/profile_step.py FOLDER                          a decode step after 32 tokens
    python benchmarks/studies/profile_step.py FOLDER --context 900
    python benchmarks/studies/profile_step.py FOLDER --context 0 --tokens 512 a prefill
    python benchmarks/studies/profile_step.py FOLDER --rows 8

Requires only gpt2-runtime. For each operator it prints the median and the minimum over the steps.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from gpt2_runtime import Bundle
from gpt2_runtime.engine.packed_session import PackedSession
from gpt2_runtime.engine.serving_graph import PREFILL_CHUNK, ServingGraph
from gpt2_runtime.engine.step_plan import plan
from gpt2_runtime.providers.huge_pages import on_huge_pages
from gpt2_runtime.providers.providers import load_onnxruntime

onnxruntime = load_onnxruntime()

WARM = 5  # steps not counted, which allocate buffers


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp32", help="(default: fp32)")
    parser.add_argument("--context", type=int, default=32, help="tokens already read (default: 32)")
    parser.add_argument("--tokens", type=int, default=1, help="tokens that a step reads of each row (default: 1)")
    parser.add_argument("--rows", type=int, default=1, help="rows (default: 1)")
    parser.add_argument("--steps", type=int, default=20, help="steps (default: 20)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    options = parser.parse_args()
    events = profile(options)
    total = 0.0
    print(f"{'operator':<28}{'nodes':>6}{'median, ms':>12}{'least, ms':>12}")
    for operator, nodes in sorted(events.items(), key=lambda item: -_sum(item[1], median)):
        total += _sum(nodes, median)
        print(f"{operator:<28}{len(nodes):>6}{_sum(nodes, median):>12.2f}{_sum(nodes, min):>12.2f}")
    print(f"{'all':<28}{'':>6}{total:>12.2f}")


def profile(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Operator -> node -> the milliseconds of each step."""
    bundle = Bundle.open(options.folder)
    with TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.enable_mem_pattern = False
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        with on_huge_pages():
            inference = onnxruntime.InferenceSession(str(bundle.graph(options.precision, "serving")), settings)
        engine = PackedSession(lambda packed: inference, [], packed=True)
        steps(ServingGraph(engine=engine, sizes=bundle.architecture), options)
        events = json.loads(Path(inference.end_profiling()).read_text(encoding="utf-8"))
    nodes_of: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes_of[event["args"]["op_name"]][event["name"]].append(event["dur"] / 1000)
    runs = len(plan([options.context] * options.rows, [options.tokens] * options.rows, PREFILL_CHUNK))
    return {
        operator: {n: by_step(ms, runs, options.steps) for n, ms in nodes.items()}
        for operator, nodes in nodes_of.items()
    }


def by_step(milliseconds: list[float], runs: int, steps: int) -> list[float]:
    """The sum of a step's runs. The runs that filled the cache and warmed up came first.

    >>> by_step([9, 9, 1, 2, 3, 4], runs=2, steps=2)
    [3, 7]
    """
    last = milliseconds[-runs * steps :]
    return [sum(last[start : start + runs]) for start in range(0, len(last), runs)]


def steps(graph: ServingGraph, options: argparse.Namespace) -> None:
    """Fills the cache, then repeats the same step."""
    ids = np.random.default_rng(0).integers(
        graph.sizes.vocab_size, size=(options.rows, options.context + options.tokens)
    )
    cache = graph.empty_cache(options.rows, ids.shape[1])
    if options.context:
        _, cache = graph.step(list(ids[:, : options.context]), cache, 1)
    for _ in range(WARM + options.steps):
        _, cache = graph.step(list(ids[:, options.context :]), cache, 1)
        cache = cache.crop(options.context)


def _sum(nodes: dict[str, list[float]], of: Callable[[list[float]], float]) -> float:
    return sum(of(milliseconds) for milliseconds in nodes.values())


if __name__ == "__main__":
    main()
