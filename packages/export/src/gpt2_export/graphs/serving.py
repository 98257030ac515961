"""The graph that the runtime opens: a preallocated cache shared by past and present, and only the requested logits.

The same network, with one part replaced: attention is GroupQueryAttention, an onnxruntime operator, which writes new
keys and values into the cache in place and reads only as much of it as each row has. A bias and its GELU are one
operator too. Residual, bias and LayerNorm are not: SkipLayerNormalization, made for them, is slower on a CPU than Add
and LayerNormalization (`benchmarks/variants.py` measures by how much).

    input_ids               [batch_size, sequence_length]
    position_ids            [batch_size, sequence_length]
    seqlens_k               [batch_size]    the tokens of each row after this step, minus one
    total_sequence_length   []              the largest of them, without the minus one
    logits_index            [logits_count]  the positions to return logits for, of batch_size * sequence_length by row
    past_key_values.N.*     [batch_size, heads, cache_length, head size], bound to the same memory as present.N.*

    logits                  [logits_count, vocabulary]

Left padding is not supported: rows start at the left, each with its own length. Several new tokens over a non-empty
cache need a batch of one: the operator refuses anything else.
"""

import math
from typing import Any

import onnx_ir as ir
import torch
from gpt2_model import GPT2, GPT2Config, KeyValue
from gpt2_model.gpt2 import ACTIVATIONS, CausalSelfAttention, gelu_tanh
from onnxscript.rewriter import pattern
from torch import Tensor, nn
from torch.nn.functional import gelu

from gpt2_export.graphs.export import Kind, Spec, Specs, layers
from gpt2_export.weights.initializers import multiply_in_pieces
from gpt2_export.weights.safetensors_file import FLOAT32_BYTES

BATCH, SEQUENCE, CACHE, COUNT = "batch_size", "sequence_length", "cache_length", "logits_count"
HEAD_MULTIPLE = 8  # GroupQueryAttention refuses other head sizes
PIECE_BYTES = 10_000_000  # at most, of the head: about GPT-2's largest other matrix

OPERATORS = """
    Add Cast Concat Constant Gather Gelu Gemm LayerNormalization MatMul Mul Relu Reshape Sigmoid
    com.microsoft::BiasGelu com.microsoft::FastGelu com.microsoft::GroupQueryAttention
"""


class SharedCacheAttention(CausalSelfAttention):
    """The same weights, with attention and cache as one operator, which torch can export but not compute."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__(config, layer)
        H = config.n_head
        self.attributes: dict[str, Any] = {"num_heads": H, "kv_num_heads": H, "scale": self.scale}

    def forward(self, x: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
        if not torch.compiler.is_exporting():  # the operator's placeholder would silently return zeros
            raise RuntimeError("SharedCacheAttention is for the exporter; run the graph that it exports")
        seqlens_k, total_sequence_length = mask  # the mask in the operator's own terms
        qkv = self.c_attn(x)  # (B, T, C) -> (B, T, 3C): the operator splits it
        y, *present = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (qkv, None, None, past.key, past.value, seqlens_k, total_sequence_length),
            self.attributes,
            dtypes=(x.dtype, past.key.dtype, past.value.dtype),
            shapes=(x.shape, past.key.shape, past.value.shape),
            version=1,
        )
        # The placeholders are made on the CPU, whatever x is on.
        return self.c_proj(y.to(x.device)), KeyValue(*(tensor.to(x.device) for tensor in present))


class ServingGPT2(nn.Module):
    """The network over a fixed-size cache: `GPT2.forward` with lengths as the mask and only the requested logits."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.model = GPT2(config)
        for layer, block in enumerate(self.model.h):
            block.attn = SharedCacheAttention(config, layer)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        logits_index: Tensor,
        past: list[Tensor],
    ) -> tuple[Tensor, ...]:
        model, presents = self.model, []
        x = model.wte(input_ids) + model.wpe(position_ids)  # (B, T) -> (B, T, C)
        for block, key, value in zip(model.h, past[::2], past[1::2], strict=True):
            x, present = block(x, KeyValue(key, value), (seqlens_k, total_sequence_length))
            presents += present
        x = x.flatten(0, 1).index_select(0, logits_index)  # (B, T, C) -> (N, C)
        return model.lm_head(model.ln_f(x)), *presents  # (N, C) -> (N, V)


def refusal(config: GPT2Config) -> str | None:
    """Why a network cannot have this graph, or None if it can."""
    if config.head_size % HEAD_MULTIPLE == 0:
        return None
    return (
        f"the head size is {config.head_size}, but GroupQueryAttention needs a multiple of {HEAD_MULTIPLE}; "
        f"the runtime uses the portable graph, which is slower"
    )


def example(config: GPT2Config) -> tuple[Tensor | list[Tensor], ...]:
    """Example arguments of the network."""
    batch, new, length, count = 2, 3, 7, 5
    return (
        torch.zeros(batch, new, dtype=torch.long),
        torch.zeros(batch, new, dtype=torch.long),
        torch.zeros(batch, dtype=torch.int32),
        torch.zeros((), dtype=torch.int32),
        torch.zeros(count, dtype=torch.long),
        [torch.zeros(batch, config.n_head, length, config.head_size) for _ in range(2 * config.n_layer)],
    )


def inputs(config: GPT2Config) -> Specs:
    """The inputs that the runtime's session feeds."""
    return {
        "input_ids": Spec(ir.DataType.INT64, (BATCH, SEQUENCE)),
        "position_ids": Spec(ir.DataType.INT64, (BATCH, SEQUENCE)),
        "seqlens_k": Spec(ir.DataType.INT32, (BATCH,)),
        "total_sequence_length": Spec(ir.DataType.INT32, ()),
        "logits_index": Spec(ir.DataType.INT64, (COUNT,)),
        **layers("past_key_values", config, (BATCH, config.n_head, CACHE, config.head_size)),
    }


def outputs(config: GPT2Config) -> Specs:
    """The requested logits, and the cache in place."""
    logits = {"logits": Spec(ir.DataType.FLOAT, (COUNT, config.vocab_size))}
    return logits | layers("present", config, (BATCH, config.n_head, CACHE, config.head_size))


def op_counts(config: GPT2Config) -> dict[str, int]:
    """The operators that must not be lost: an unfused Add before a GELU costs another pass over memory."""
    fused = {gelu_tanh: "FastGelu", gelu: "BiasGelu"}.get(ACTIVATIONS[config.activation_function])
    return {
        "GroupQueryAttention": config.n_layer,
        "MatMul": 4 * config.n_layer,
        "LayerNormalization": 2 * config.n_layer + 1,
        "Gemm": pieces(config),
        # per layer two residuals and the biases (c_fc's may be fused into its activation); the two embeddings
        "Add": config.n_layer * (5 if fused else 6) + 1,
        **({fused: config.n_layer} if fused else {}),
    }


def fuse(model: ir.Model) -> None:
    """Fuses bias and GELU into one operator."""
    GELU.apply_to_model(model)


def finish(model: ir.Model) -> None:
    """Cuts the head, the product that makes the logits, into pieces."""
    head = model.graph.outputs[0].producer()
    # In half precision it multiplies by a cast of the weight, made while loading, which is not in a file.
    if head is not None and head.inputs[1].is_initializer():  # type: ignore[union-attr]
        multiply_in_pieces(model, head, "lm_head.weight", PIECE_BYTES)


def pieces(config: GPT2Config) -> int:
    """The number of pieces, of at most `PIECE_BYTES` each, that the head is cut into."""
    return math.ceil(config.vocab_size * config.n_embd * FLOAT32_BYTES / PIECE_BYTES)


GELU = pattern.RewriteRuleSet(
    [
        pattern.RewriteRule(
            lambda op, x, bias: op.Gelu(op.Add(x, bias), approximate="tanh"),
            lambda op, x, bias: op.FastGelu(x, bias, _domain="com.microsoft"),
        ),
        pattern.RewriteRule(
            lambda op, x, bias: op.Gelu(op.Add(x, bias), approximate="none"),
            lambda op, x, bias: op.BiasGelu(x, bias, _domain="com.microsoft"),
        ),
    ]
)

SERVING = Kind(
    name="serving",
    file="model_serving.onnx",
    network=ServingGPT2,
    example=example,
    inputs=inputs,
    outputs=outputs,
    operators=frozenset(OPERATORS.split()),
    op_counts=op_counts,
    fuse=fuse,
    finish=finish,
    refusal=refusal,
    shares_cache=True,
)
