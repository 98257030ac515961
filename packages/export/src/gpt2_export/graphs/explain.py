"""The graph that `gpt2-runtime explain` opens: every head's attention and every layer's prediction.

The same network, with its intermediate results as outputs. It reads a text from its start, without padding:

    input_ids               [batch_size, sequence_length]
    target_ids              [batch_size, sequence_length]   a token for each position, whose log-probability to return
    top_k                   []                              the number of predictions per layer and position

    logits                  [batch_size, sequence_length, vocabulary]
    lens_ids                [layers + 1, batch_size, sequence_length, top_k]    likeliest first
    lens_log_probs          [layers + 1, batch_size, sequence_length, top_k]
    lens_target_log_probs   [layers + 1, batch_size, sequence_length]
    attentions.N            [batch_size, heads, sequence_length, sequence_length]   each token's weights on the others

The lens (nostalgebraist, "interpreting GPT: the logit lens", 2020) reads the stream after the embeddings and after
each layer as if it were the last: through the last LayerNorm and the head. Only `top_k` logits of a layer are kept: all
of them would be gigabytes. Open it without prepacking: onnxruntime would pack the head again for each layer.
"""

from typing import Any

import onnx_ir as ir
import torch
from gpt2_model import GPT2, GPT2Config
from gpt2_model.gpt2 import CausalSelfAttention, KeyValue
from torch import Tensor, nn

from gpt2_export.graphs.export import Kind, Spec, Specs

BATCH, SEQUENCE, TOP = "batch_size", "sequence_length", "top_k"

OPERATORS = """
    Add Cast Concat Constant Gather GatherElements Gelu Gemm LayerNormalization LessOrEqual LogSoftmax MatMul Mul Not
    Range Relu Reshape Shape Sigmoid Softmax Split Squeeze TopK Transpose Unsqueeze Where
"""


class ShownAttention(CausalSelfAttention):
    """The same attention, returning its weights instead of the keys and values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        scores = self.scores(q, k)  # (B, H, T, D), (B, H, T, D) -> (B, H, T, T)
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1).to(v.dtype)
        return weights @ v, weights


class ExplainingGPT2(nn.Module):
    """`GPT2.forward` from the start of a text, with the lens after the embeddings and after each layer."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.model = GPT2(config)
        for layer, block in enumerate(self.model.h):
            block.attn = ShownAttention(config, layer)

    def forward(self, input_ids: Tensor, target_ids: Tensor, top_k: Tensor) -> tuple[Tensor, ...]:
        model, T = self.model, input_ids.shape[1]
        place = torch.arange(T, device=input_ids.device)
        not_ahead = place[None, :] <= place[:, None]  # (T, T): the text starts here, without padding
        x = model.wte(input_ids) + model.wpe(place)  # (B, T) -> (B, T, C)
        streams, attentions = [x], []
        for block in model.h:
            x, weights = block(x, None, not_ahead)  # and (B, H, T, T)
            streams.append(x)
            attentions.append(weights)

        count: Any = top_k.item()  # stays symbolic
        torch._check(count >= 0)  # type: ignore[no-untyped-call]  # needed by the exporter
        torch._check(count <= model.config.vocab_size)  # type: ignore[no-untyped-call]
        lens = []
        for stream in streams:
            logits = model.lm_head(model.ln_f(stream))  # (B, T, C) -> (B, T, V)
            lens.append(read(logits, target_ids, count))
        ids, log_probs, targets = (torch.stack(layers) for layers in zip(*lens, strict=True))
        return logits, ids, log_probs, targets, *attentions


def read(logits: Tensor, target_ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest ids (B, T, K) of logits (B, T, V), their log-probabilities, and those (B, T) of the targets."""
    log_probs = logits.log_softmax(dim=-1)  # logits minus ReduceLogSumExp is ten times less exact
    largest, ids = log_probs.topk(count)
    return ids, largest, log_probs.gather(-1, target_ids[..., None]).squeeze(-1)


def example(config: GPT2Config) -> tuple[Tensor, ...]:
    """Example arguments of the network."""
    batch, length = 2, 5
    ids = torch.zeros(batch, length, dtype=torch.long)
    return ids, torch.zeros_like(ids), torch.tensor(3, device="cpu")


def inputs(config: GPT2Config) -> Specs:
    """The inputs that `gpt2-runtime explain` feeds."""
    ids = Spec(ir.DataType.INT64, (BATCH, SEQUENCE))
    return {"input_ids": ids, "target_ids": ids, "top_k": Spec(ir.DataType.INT64, ())}


def outputs(config: GPT2Config) -> Specs:
    """The outputs that are shown."""
    lens = (config.n_layer + 1, BATCH, SEQUENCE)
    return {
        "logits": Spec(ir.DataType.FLOAT, (BATCH, SEQUENCE, config.vocab_size)),
        "lens_ids": Spec(ir.DataType.INT64, (*lens, TOP)),
        "lens_log_probs": Spec(ir.DataType.FLOAT, (*lens, TOP)),
        "lens_target_log_probs": Spec(ir.DataType.FLOAT, lens),
        **{
            f"attentions.{layer}": Spec(ir.DataType.FLOAT, (BATCH, config.n_head, SEQUENCE, SEQUENCE))
            for layer in range(config.n_layer)
        },
    }


def op_counts(config: GPT2Config) -> dict[str, int]:
    """The operators that must not be lost: a lens per layer, and one more."""
    return {
        "Softmax": config.n_layer,
        "LayerNormalization": 3 * config.n_layer + 1,
        "MatMul": 6 * config.n_layer,
        "Gemm": config.n_layer + 1,
        "TopK": config.n_layer + 1,
    }


EXPLAIN = Kind(
    name="explaining",
    file="model_explain.onnx",
    network=ExplainingGPT2,
    example=example,
    inputs=inputs,
    outputs=outputs,
    operators=frozenset(OPERATORS.split()),
    op_counts=op_counts,
    float32_only=True,
)
