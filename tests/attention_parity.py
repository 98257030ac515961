"""Attention and the logit lens: transformers' own, and whether an explanation shows the same."""

from pathlib import Path

import numpy as np
import torch
from gpt2_runtime.explain.explainer import Explainer
from transformers import GPT2LMHeadModel

TOKENS = 40
TOP = 5


def transformers(source: Path) -> GPT2LMHeadModel:
    """With eager attention, which alone gives its weights."""
    return GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def assert_same_attention(network: GPT2LMHeadModel, explainer: Explainer, atol: float) -> None:
    """Every weight of attention, each layer's likeliest tokens, and what each layer gave the token that came next."""
    count = min(TOKENS, network.config.n_positions)
    ids = np.random.default_rng(0).integers(network.config.vocab_size, size=count)
    found = explainer.explain(ids.tolist(), top=TOP)
    read = network(torch.from_numpy(ids[None]), output_attentions=True, output_hidden_states=True)
    expected = torch.stack(read.attentions)[:, 0].numpy()
    differs("attention", found.attentions, expected, atol)
    # The last hidden state has been through ln_f, the others have not.
    streams = [*(network.transformer.ln_f(state) for state in read.hidden_states[:-1]), read.hidden_states[-1]]
    log_probs = torch.stack([network.lm_head(stream)[0].log_softmax(dim=-1) for stream in streams])  # (L + 1, T, V)
    differs("lens", found.lens_log_probs, log_probs.topk(TOP).values.numpy(), atol)
    differs("lens", found.lens_log_probs, log_probs.gather(-1, torch.from_numpy(found.lens_ids)).numpy(), atol)
    following = torch.from_numpy(ids[1:]).expand(len(streams), -1)[..., None]
    came_next = log_probs[:, :-1].gather(-1, following)[..., 0].numpy()
    differs("the next token's log-probability", found.lens_next_log_probs[:, :-1], came_next, atol)
    differs("a token's log-probability", found.log_probs[1:], came_next[-1], atol)


def differs(what: str, found: np.ndarray, expected: np.ndarray, atol: float) -> None:
    difference = float(np.abs(found - expected).max())
    assert difference <= atol, f"{what} differs by {difference:.3g}, limit {atol:.3g}"
