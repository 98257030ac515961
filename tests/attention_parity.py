"""Compares an explanation's attention and logit lens with transformers' own."""

from pathlib import Path

import numpy as np
import torch
from gpt2_runtime.explain.explainer import Explainer
from transformers import GPT2LMHeadModel

TOKENS = 40
TOP = 5


def transformers(source: Path) -> GPT2LMHeadModel:
    """Opens a checkpoint with eager attention, the only kind that returns its weights."""
    return GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def assert_same_attention(network: GPT2LMHeadModel, explainer: Explainer, atol: float) -> None:
    """Compares attention weights, each layer's likeliest tokens, and each layer's log-probability of the next token."""
    count = min(TOKENS, network.config.n_positions)
    ids = np.random.default_rng(0).integers(network.config.vocab_size, size=count)
    explanation = explainer.explain(ids.tolist(), top=TOP)
    read = network(torch.from_numpy(ids[None]), output_attentions=True, output_hidden_states=True)
    expected = torch.stack(read.attentions)[:, 0].numpy()
    differs("attention", explanation.attentions, expected, atol)
    # Only the last hidden state has been through ln_f.
    streams = [*(network.transformer.ln_f(state) for state in read.hidden_states[:-1]), read.hidden_states[-1]]
    log_probs = torch.stack([network.lm_head(stream)[0].log_softmax(dim=-1) for stream in streams])  # (L + 1, T, V)
    differs("lens", explanation.lens_log_probs, log_probs.topk(TOP).values.numpy(), atol)
    differs(
        "lens", explanation.lens_log_probs, log_probs.gather(-1, torch.from_numpy(explanation.lens_ids)).numpy(), atol
    )
    following = torch.from_numpy(ids[1:]).expand(len(streams), -1)[..., None]
    came_next = log_probs[:, :-1].gather(-1, following)[..., 0].numpy()
    differs("the next token's log-probability", explanation.lens_next_log_probs[:, :-1], came_next, atol)
    differs("a token's log-probability", explanation.log_probs[1:], came_next[-1], atol)


def differs(what: str, actual: np.ndarray, expected: np.ndarray, atol: float) -> None:
    difference = float(np.abs(actual - expected).max())
    assert difference <= atol, f"{what} differs by {difference:.3g}, limit {atol:.3g}"
