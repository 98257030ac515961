"""The operators that could do the attention of GPT-2 124M, each alone in a graph: microseconds of one layer.

    python benchmarks/studies/attention.py

`decode` reads one token over 900, `prefill` 256 tokens over none, `chunk` 256 tokens over 512. Requires onnx and
gpt2-runtime. Operators without a kernel in the installed onnxruntime are reported as such. All measured ones give the
same numbers, except with an 8-bit cache.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import onnx
from gpt2_runtime.providers.providers import load_onnxruntime
from onnx import TensorProto, helper

onnxruntime = load_onnxruntime()

H, D = 12, 64
C, LENGTH = H * D, 1024  # of the cache
CASES = {"decode": (900, 1), "prefill": (0, 256), "chunk": (512, 256)}  # past, new
PAUSE = 0.03  # until the other sessions' spinning threads are asleep
FLOAT, INT8, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A graph and its feeds, for `past` tokens of random keys and values and `new` more."""

    nodes: list[onnx.NodeProto]
    feeds: Callable[["Sizes"], Feeds]
    outputs: tuple[str, ...]
    shared: tuple[tuple[str, str], ...] = ()  # inputs and outputs that share memory
    opset: int = 20
    off: float = 1e-5  # largest difference from the first way


@dataclass(frozen=True)
class Sizes:
    past: int
    new: int

    def random(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """qkv [1, T, 3C] of the new tokens; keys and values [1, H, P, D] of the past."""
        rng = np.random.default_rng(0)
        qkv = rng.standard_normal((1, self.new, 3 * C), dtype=np.float32)
        keys, values = rng.standard_normal((2, 1, H, self.past, D), dtype=np.float32)
        return qkv, keys, values

    def caches(self) -> tuple[np.ndarray, np.ndarray]:
        """The past in memory of LENGTH positions."""
        made = []
        for past in self.random()[1:]:
            cache = np.zeros((1, H, LENGTH, D), np.float32)
            cache[:, :, : self.past] = past
            made.append(cache)
        return made[0], made[1]


def gqa(names: list[str]) -> onnx.NodeProto:
    inputs = [*names, "past_key", "past_value", "seqlens_k", "total"]
    return helper.make_node(
        "GroupQueryAttention", inputs, ["y", "key", "value"], domain="com.microsoft", num_heads=H, kv_num_heads=H
    )


def lengths(sizes: Sizes) -> Feeds:
    total = sizes.past + sizes.new
    return {"seqlens_k": np.array([total - 1], np.int32), "total": np.array(total, np.int32)}


def packed(sizes: Sizes) -> Feeds:
    key, value = sizes.caches()
    return {"qkv": sizes.random()[0], "past_key": key, "past_value": value} | lengths(sizes)


def apart(sizes: Sizes) -> Feeds:
    fed = packed(sizes)
    return dict(zip("qkv", np.split(fed.pop("qkv"), 3, axis=-1), strict=True)) | fed


def grown(sizes: Sizes) -> Feeds:
    qkv, keys, values = sizes.random()
    return dict(zip("qkv", np.split(qkv, 3, axis=-1), strict=True)) | {"past_key": keys, "past_value": values}


def scattered(sizes: Sizes) -> Feeds:
    q, k, v = (part.reshape(1, -1, H, D).swapaxes(1, 2).copy() for part in np.split(sizes.random()[0], 3, axis=-1))
    key, value = sizes.caches()
    at = {"write": np.array([sizes.past], np.int64), "valid": np.array([sizes.past + sizes.new], np.int64)}
    return {"q": q, "k": k, "v": v, "past_key": key, "past_value": value} | at


def in_eight_bits(sizes: Sizes) -> Feeds:
    """Random keys and values reach 5; values beyond a scale's range are clipped."""
    fed, scale = packed(sizes), np.full((1, H, 1, D), 5 / 127, np.float32)
    for name in ("past_key", "past_value"):
        fed[name] = np.clip(np.rint(fed[name] / scale), -128, 127).astype(np.int8)
    return fed | {"k_scale": scale, "v_scale": scale.copy()}


def gqa_in_eight_bits() -> onnx.NodeProto:
    inputs = ["qkv", "", "", "past_key", "past_value", "seqlens_k", "total", "", "", "", "", "", "k_scale", "v_scale"]
    modes = dict.fromkeys(("k_quant_type", "v_quant_type"), "PER_CHANNEL")
    heads = dict.fromkeys(("num_heads", "kv_num_heads"), H)
    domain = "com.microsoft"
    return helper.make_node(
        "GroupQueryAttention", inputs, ["y", "key", "value"], domain=domain, kv_cache_bit_width=8, **heads, **modes
    )


SHARED = (("past_key", "key"), ("past_value", "value"))
WAYS = {
    "GroupQueryAttention, q/k/v packed": Way(
        nodes=[gqa(["qkv", "", ""])], feeds=packed, outputs=("y", "key", "value"), shared=SHARED
    ),
    "GroupQueryAttention, q/k/v apart": Way(
        nodes=[gqa(["q", "k", "v"])], feeds=apart, outputs=("y", "key", "value"), shared=SHARED
    ),
    "GroupQueryAttention, cache of 8 bits": Way(
        nodes=[gqa_in_eight_bits()], feeds=in_eight_bits, outputs=("y", "key", "value"), shared=SHARED, off=0.1
    ),
    "MultiHeadAttention, past that grows": Way(
        nodes=[
            helper.make_node(
                "MultiHeadAttention",
                ["q", "k", "v", "", "", "", "past_key", "past_value"],
                ["y", "key", "value"],
                domain="com.microsoft",
                num_heads=H,
                unidirectional=1,
            )
        ],
        feeds=grown,
        outputs=("y", "key", "value"),
    ),
    "Attention of opset 24, TensorScatter": Way(
        nodes=[
            helper.make_node("TensorScatter", ["past_key", "k", "write"], ["key"], axis=2),
            helper.make_node("TensorScatter", ["past_value", "v", "write"], ["value"], axis=2),
            helper.make_node("Attention", ["q", "key", "value", "", "", "", "valid"], ["y"], is_causal=1),
        ],
        feeds=scattered,
        outputs=("y", "key", "value"),
        shared=SHARED,
        opset=24,
    ),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=51, help="(default: 51)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    options = parser.parse_args()
    print(f"{'':<40}" + "".join(f"{case:>10}" for case in CASES))
    runs = {
        case: {name: opened(way, Sizes(*CASES[case]), options.threads) for name, way in WAYS.items()} for case in CASES
    }
    table: dict[tuple[str, str], Any] = {}
    for case, ways in runs.items():
        ready = {name: run for name, run in ways.items() if callable(run)}
        times: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(options.rounds):
            for name, run in ready.items():
                sleep(PAUSE)
                run()  # wakes the threads and allocates memory
                start = perf_counter()
                run()
                times[name].append(perf_counter() - start)
        expected = next(iter(ready.values()))()
        for name, run in ready.items():
            np.testing.assert_allclose(run().reshape(-1), expected.reshape(-1), atol=WAYS[name].off)
        table |= {(name, case): f"{1e6 * median(times[name]):.0f}" for name in ready}
        table |= {(name, case): run for name, run in ways.items() if isinstance(run, str)}
    for name in WAYS:
        print(f"{name:<40}" + "".join(f"{table[name, case]:>10}" for case in CASES))


def opened(way: Way, sizes: Sizes, threads: int) -> Callable[[], np.ndarray] | str:
    """A function that attends once and returns y [1, T, C]; or the reason why there is none."""
    fed = way.feeds(sizes)
    types = {np.dtype(np.float32): FLOAT, np.dtype(np.int8): INT8, np.dtype(np.int32): INT32, np.dtype(np.int64): INT64}
    shares = {output: fed[name].dtype for name, output in way.shared}
    graph = helper.make_graph(
        way.nodes,
        "attention",
        [helper.make_tensor_value_info(name, types[array.dtype], array.shape) for name, array in fed.items()],
        [
            helper.make_tensor_value_info(name, types[shares.get(name, np.dtype(np.float32))], None)
            for name in way.outputs
        ],
    )
    opsets = [helper.make_opsetid("", way.opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in fed.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        same = {output: values[name] for name, output in way.shared}
        for name in way.outputs:
            if name in same:
                binding.bind_ortvalue_output(name, same[name])
            else:
                binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime's errors have no other common base
        return "no kernel" if "NOT_IMPLEMENTED" in str(error) else "refused"

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        y: np.ndarray = binding.get_outputs()[way.outputs.index("y")].numpy()
        return y if y.ndim == 3 else y.swapaxes(1, 2)  # [1, H, T, D] -> [1, T, H, D]

    return run


if __name__ == "__main__":
    main()
