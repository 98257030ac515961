"""The graph that `gpt2-runtime explain` opens: the attention of every head, and what every layer would predict.

It is the same network, which shows what it computes on its way. It reads a text from its start, without padding:

    input_ids               [batch_size, sequence_length]
    target_ids              [batch_size, sequence_length]   a token for each place, to tell the log-probability of
    top_k                   []                              how many guesses a layer gives at each place

    logits                  [batch_size, sequence_length, vocabulary]
    lens_ids                [layers + 1, batch_size, sequence_length, top_k]    the likeliest first
    lens_log_probs          [layers + 1, batch_size, sequence_length, top_k]
    lens_target_log_probs   [layers + 1, batch_size, sequence_length]
    attentions.N            [batch_size, heads, sequence_length, sequence_length]   what each token makes of which

The lens (nostalgebraist, "interpreting GPT: the logit lens", 2020) reads the stream after the embeddings and after
each layer as if it were the last: through the last LayerNorm and the head. Of a layer's logits `top_k` are kept: all of
them would be gigabytes. Open it without prepacking: onnxruntime would pack the head anew for each layer.
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
    """The same attention, which hands on its weights where the other hands on keys and values."""

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
        not_ahead = place[None, :] <= place[:, None]  # (T, T): a text that starts here and has no padding
        x = model.wte(input_ids) + model.wpe(place)  # (B, T) -> (B, T, C)
        streams, attentions = [x], []
        for block in model.h:
            x, weights = block(x, None, not_ahead)  # and (B, H, T, T)
            streams.append(x)
            attentions.append(weights)

        count: Any = top_k.item()  # which stays a symbol
        torch._check(count >= 0)  # type: ignore[no-untyped-call]  # what the exporter must know to trace on
        torch._check(count <= model.config.vocab_size)  # type: ignore[no-untyped-call]
        lens = []
        for stream in streams:
            logits = model.lm_head(model.ln_f(stream))  # (B, T, C) -> (B, T, V)
            lens.append(read(logits, target_ids, count))
        ids, log_probs, targets = (torch.stack(layers) for layers in zip(*lens, strict=True))
        return logits, ids, log_probs, targets, *attentions


def read(logits: Tensor, target_ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest ids (B, T, K) of logits (B, T, V), their log-probabilities, and those (B, T) of the targets."""
    log_probs = logits.log_softmax(dim=-1)  # as logits minus ReduceLogSumExp they are ten times less exact
    largest, ids = log_probs.topk(count)
    return ids, largest, log_probs.gather(-1, target_ids[..., None]).squeeze(-1)


def example(config: GPT2Config) -> tuple[Tensor, ...]:
    """Arguments of the network."""
    batch, length = 2, 5
    ids = torch.zeros(batch, length, dtype=torch.long)
    return ids, torch.zeros_like(ids), torch.tensor(3, device="cpu")


def inputs(config: GPT2Config) -> Specs:
    """What `gpt2-runtime explain` feeds."""
    ids = Spec(ir.DataType.INT64, (BATCH, SEQUENCE))
    return {"input_ids": ids, "target_ids": ids, "top_k": Spec(ir.DataType.INT64, ())}


def outputs(config: GPT2Config) -> Specs:
    """What is shown."""
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
    """What must not be lost: a lens for each layer, and one more."""
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
