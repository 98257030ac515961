"""The graph that everything opens: standard operators, a growing past, logits at all positions."""

import onnx_ir as ir
import torch
from gpt2_model import GPT2, GPT2Config, KeyValue
from torch import Tensor, nn

from gpt2_export.graphs.export import Kind, Spec, Specs, layers

BATCH, SEQUENCE, PAST, TOTAL = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"

# Every operator that may occur, whatever the config: standard ones that every runtime has a kernel for.
OPERATORS = """
    Add And Cast Concat Constant Equal Expand Flatten Gather Gelu Gemm LayerNormalization LessOrEqual MatMul Mul Not
    Range Relu Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Transpose Unsqueeze Where
"""


class PortableGPT2(nn.Module):
    """The network with the inputs and outputs that ONNX runtimes expect: flat lists of past and present tensors."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.model = GPT2(config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        cache = tuple(KeyValue(key, value) for key, value in zip(past[::2], past[1::2], strict=True))
        logits, presents = self.model(input_ids, cache, attention_mask, position_ids)
        return logits, *(tensor for present in presents for tensor in present)


def example(config: GPT2Config) -> tuple[Tensor | list[Tensor], ...]:
    """Example arguments of the network."""
    batch, new, past = 2, 3, 5
    return (
        torch.zeros(batch, new, dtype=torch.long),
        torch.zeros(batch, past + new, dtype=torch.long),
        torch.zeros(batch, new, dtype=torch.long),
        [torch.zeros(batch, config.n_head, past, config.head_size) for _ in range(2 * config.n_layer)],
    )


def inputs(config: GPT2Config) -> Specs:
    """The inputs that Optimum, onnxruntime-genai and transformers.js feed."""
    integers = {
        "input_ids": (BATCH, SEQUENCE),
        "attention_mask": (BATCH, TOTAL),
        "position_ids": (BATCH, SEQUENCE),
    }
    past = layers("past_key_values", config, (BATCH, config.n_head, PAST, config.head_size))
    return {name: Spec(ir.DataType.INT64, axes) for name, axes in integers.items()} | past


def outputs(config: GPT2Config) -> Specs:
    """The logits of every token read, and the longer cache."""
    logits = {"logits": Spec(ir.DataType.FLOAT, (BATCH, SEQUENCE, config.vocab_size))}
    return logits | layers("present", config, (BATCH, config.n_head, TOTAL, config.head_size))


def op_counts(config: GPT2Config) -> dict[str, int]:
    """The operators that must not be lost."""
    return {"Softmax": config.n_layer, "LayerNormalization": 2 * config.n_layer + 1, "MatMul": 6 * config.n_layer}


PORTABLE = Kind(
    name="portable",
    file="model.onnx",
    network=PortableGPT2,
    example=example,
    inputs=inputs,
    outputs=outputs,
    operators=frozenset(OPERATORS.split()),
    op_counts=op_counts,
)
