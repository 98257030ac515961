"""GPT-2, the whole network: token ids and a cache in, logits and the longer cache out.

Letters in shapes, in this file and everywhere else:

    B  rows of the batch        P  tokens read before, whose keys and values are in the cache
    T  tokens read now          C  width of the residual stream, n_embd
    H  heads                    D  width of a head, C / H          V  size of the vocabulary

Module names are those of OpenAI's checkpoint (`h.0.attn.c_attn`), so a tensor can be followed from the file to its
place in the arithmetic without a table.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), and the published model's code.
"""

from collections.abc import Callable
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_model.config import GPT2Config


class KeyValue(NamedTuple):
    """The keys and values of the tokens one layer has read."""

    key: Tensor  # (B, H, P, D)
    value: Tensor  # (B, H, P, D)


Cache = tuple[KeyValue, ...]
"""One `KeyValue` per layer. Passed in and returned, never changed in place."""


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU: the tanh approximation, which differs from the exact one by up to 5e-4."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


class CausalSelfAttention(nn.Module):
    """Each token attends to itself and to those before it."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.scale = config.attention_scale(layer)
        self.upcast = config.reorder_and_upcast_attn
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
        q, k, v = (self.split_heads(part) for part in self.c_attn(x).chunk(3, dim=-1))  # (B, T, 3C) -> 3 (B, H, T, D)
        y, present = self.attend(q, k, v, past, mask)  # (B, H, T, D)
        y = y.transpose(1, 2).flatten(2)  # (B, H, T, D) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y)), present

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
        """softmax(q kᵀ · scale) v over the past and the present; `mask` is true where a query may attend."""
        k = torch.cat((past.key, k), dim=2)  # (B, H, P, D), (B, H, T, D) -> (B, H, P+T, D)
        v = torch.cat((past.value, v), dim=2)
        scores = self.scores(q, k)  # (B, H, T, D), (B, H, P+T, D) -> (B, H, T, P+T)
        # The lowest finite number, not -inf: a row with nothing to attend to (padding) must not become NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1).to(v.dtype)
        return self.attn_dropout(weights) @ v, KeyValue(k, v)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """How well each query matches each key: (B, H, T, D), (B, H, P+T, D) -> (B, H, T, P+T)."""
        if self.upcast:  # `reorder_and_upcast_attn`: half precision overflows here; at float32 and above, no change
            wide = torch.promote_types(q.dtype, torch.float32)
            q, k = q.to(wide), k.to(wide)
        return q @ k.transpose(-2, -1) * self.scale

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D)."""
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)


class MLP(nn.Module):
    """Each token on its own: up to the inner width, a nonlinearity, and back."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner_size)
        self.c_proj = nn.Linear(config.inner_size, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.c_fc(x))  # (B, T, C) -> (B, T, inner)
        x = self.c_proj(x)  # (B, T, inner) -> (B, T, C)
        return self.dropout(x)


class Block(nn.Module):
    """Attention, then the MLP; each reads the normalised stream and adds to it."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
        attended, present = self.attn(self.ln_1(x), past, mask)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), present


class GPT2(nn.Module):
    """The language model: for every token read, a logit for every token that might come next.

    >>> model = GPT2(GPT2Config(vocab_size=100, n_positions=16, n_embd=12, n_layer=2, n_head=3)).eval()
    >>> logits, cache = model(torch.tensor([[7, 8, 9]]))
    >>> logits.shape
    torch.Size([1, 3, 100])
    >>> logits, cache = model(torch.tensor([[10]]), cache)  # the fourth token; the first three are not read again
    >>> logits.shape, len(cache), cache[0].key.shape
    (torch.Size([1, 1, 100]), 2, torch.Size([1, 3, 4, 4]))
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.wte.weight
        initialise(self)

    def forward(
        self,
        input_ids: Tensor,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Cache]:
        """Reads T tokens after the P in the cache.

        Args:
            input_ids: (B, T) int64, each below V.
            cache: of P tokens, from an earlier call; None at the start of the text.
            attention_mask: (B, P+T), nonzero for text, 0 for padding on either side; None means all text.
            position_ids: (B, T) int64, each below n_positions; None counts the text and skips the padding.

        Returns:
            logits (B, T, V), and the cache of P+T tokens.

        Raises:
            ValueError: P+T is more than n_positions, and position_ids is not given.
        """
        B, T = input_ids.shape
        if cache is None:
            cache = self.empty_cache(B)
        if attention_mask is None:
            attention_mask = input_ids.new_ones(B, cache[0].key.shape[2] + T)  # (B, P+T)
        if position_ids is None:
            position_ids = self.positions(attention_mask)[:, -T:]  # (B, P+T) -> (B, T)
        mask = causal_mask(attention_mask, T)  # (B, P+T) -> (B, 1, T, P+T)

        x = self.drop(self.wte(input_ids) + self.wpe(position_ids))  # (B, T) -> (B, T, C)
        presents = []
        for block, past in zip(self.h, cache, strict=True):
            x, present = block(x, past, mask)
            presents.append(present)
        return self.lm_head(self.ln_f(x)), tuple(presents)  # (B, T, C) -> (B, T, V)

    def loss(self, input_ids: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood, in nats, of each token given those before it.

        Args:
            input_ids: (B, T) int64.
            labels: (B, T) int64, the targets; None means input_ids. -100 is not counted.

        Returns:
            a scalar; about log(V) for an untrained model.
        """
        logits, _ = self(input_ids)
        labels = input_ids if labels is None else labels
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

    def empty_cache(self, batch_size: int) -> Cache:
        """The cache before the first token: P is 0."""
        shape = (batch_size, self.config.n_head, 0, self.config.head_size)
        weight = self.wte.weight
        return tuple(KeyValue(weight.new_empty(shape), weight.new_empty(shape)) for _ in self.h)

    def positions(self, attention_mask: Tensor) -> Tensor:
        """The position of each token in its row's text: (B, P+T) -> (B, P+T); padding before the text is at 0."""
        length = attention_mask.shape[1]
        if length > self.config.n_positions:
            raise ValueError(
                f"{length} tokens, but the model reads at most {self.config.n_positions}; shorten the text"
            )
        return ((attention_mask != 0).long().cumsum(dim=1) - 1).clamp(min=0)

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike[str], *, revision: str | None = None, dtype: torch.dtype = torch.float32
    ) -> "GPT2":
        """Loads a checkpoint, in eval mode; `gpt2_model.weights.load` has more options and lists the errors.

        Args:
            source: a repository on the Hugging Face Hub ("gpt2", "distilgpt2", "org/name") or a local folder.
            revision: branch, tag or commit on the Hub.
            dtype: the type to compute in, whatever the file stores.
        """
        from gpt2_model import (
            weights,
        )  # imported inside the call: the network itself knows nothing of files

        return weights.load(source, revision=revision, dtype=dtype)


def causal_mask(attention_mask: Tensor, T: int) -> Tensor:
    """True where one of the last T tokens may attend: not ahead, and not to padding. (B, P+T) -> (B, 1, T, P+T)."""
    length = attention_mask.shape[1]
    place = torch.arange(length, device=attention_mask.device)
    not_ahead = place[None, :] <= place[length - T :, None]  # (T, P+T)
    return not_ahead & (attention_mask != 0)[:, None, None, :]


def initialise(model: GPT2) -> None:
    """GPT-2's initialisation: normal weights, zero biases, residual projections scaled down with depth."""
    std = model.config.initializer_range
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            nn.init.normal_(parameter, std=std / (2 * model.config.n_layer) ** 0.5)
        elif parameter.dim() == 2:
            nn.init.normal_(parameter, std=std)
        elif name.endswith(".bias"):
            nn.init.zeros_(parameter)
