"""Known bugs in implementations of GPT-2, applied to a correct scratch network.

Each has the checkpoint that exposes it, and a function that makes it: by changing the loaded network, or a function of
its module for the duration of the test.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from gpt2_model import GPT2, KeyValue, gpt2
from torch import Tensor, nn
from torch.nn import functional as F

Make = Callable[[GPT2, pytest.MonkeyPatch], None]


class Mutant(NamedTuple):
    variant: str
    make: Make


MUTANTS: dict[str, Mutant] = {}
INVISIBLE_IN_FLOAT32: dict[str, Mutant] = {}


def mistake(name: str, variant: str = "as published", into: dict[str, Mutant] = MUTANTS) -> Callable[[Make], Make]:
    def enter(make: Make) -> Make:
        into[name] = Mutant(variant, make)
        return make

    return enter


def epsilon(value: float) -> Make:
    def make(model: GPT2, _: pytest.MonkeyPatch) -> None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = value

    return make


mistake("LayerNorm epsilon of 1e-6")(epsilon(1e-6))
mistake("LayerNorm epsilon rounded to half precision", into=INVISIBLE_IN_FLOAT32)(
    epsilon(float(torch.tensor(1e-5, dtype=torch.float16)))
)


@mistake("erf GELU instead of tanh")
def erf_gelu(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        block.mlp.activation = F.gelu


@mistake("tanh GELU instead of erf", variant="gelu")
def tanh_gelu(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        block.mlp.activation = gpt2.gelu_tanh


@mistake("tanh GELU with sqrt(2/pi) rounded to six digits", into=INVISIBLE_IN_FLOAT32)
def rounded_gelu(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        block.mlp.activation = lambda x: 0.5 * x * (1 + torch.tanh(0.797885 * (x + 0.044715 * x**3)))


@mistake("no 1/sqrt(d)")
def unscaled(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        block.attn.scale = 1.0


@mistake("1/sqrt(d) although the config says none", variant="unscaled attention")
def scaled(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        block.attn.scale = model.config.head_size**-0.5


@mistake("layers counted from 1 too late in the scale", variant="scaled by layer")
def layers_from_zero(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for layer, block in enumerate(model.h):
        block.attn.scale = model.config.head_size**-0.5 / max(1, layer)


@mistake("square c_proj not transposed")
def c_proj_transposed(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        block.attn.c_proj.weight = nn.Parameter(block.attn.c_proj.weight.t())


@mistake("square MLP not transposed", variant="square inner width")
def mlp_transposed(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        block.mlp.c_fc.weight = nn.Parameter(block.mlp.c_fc.weight.t())


@mistake("keys and queries in the other order")
def q_and_k_swapped(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        for parameter in (block.attn.c_attn.weight, block.attn.c_attn.bias):
            q, k, v = parameter.chunk(3)
            parameter.data = torch.cat((k, q, v))


@mistake("keys and values in the other order")
def k_and_v_swapped(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        for parameter in (block.attn.c_attn.weight, block.attn.c_attn.bias):
            q, k, v = parameter.chunk(3)
            parameter.data = torch.cat((q, v, k))


@mistake("heads split by interleaving")
def heads_interleaved(_: GPT2, patch: pytest.MonkeyPatch) -> None:
    def split_heads(self: gpt2.CausalSelfAttention, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.n_head)).permute(0, 3, 1, 2)

    patch.setattr(gpt2.CausalSelfAttention, "split_heads", split_heads)


@mistake("heads split without moving the tokens")
def heads_without_transpose(_: GPT2, patch: pytest.MonkeyPatch) -> None:
    def split_heads(self: gpt2.CausalSelfAttention, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.n_head, x.shape[1], -1)

    patch.setattr(gpt2.CausalSelfAttention, "split_heads", split_heads)


@mistake("position off by one")
def position_off_by_one(model: GPT2, _: pytest.MonkeyPatch) -> None:
    model.wpe.weight.data = model.wpe.weight.roll(-1, dims=0)


def positions_of(count: Callable[[Tensor], Tensor]) -> Make:
    return lambda _, patch: patch.setattr(GPT2, "positions", lambda self, mask: count(mask))


mistake("padding counted in the positions")(positions_of(lambda mask: torch.ones_like(mask).cumsum(1) - 1))
mistake("no positions after the cache")(positions_of(lambda mask: (mask.cumsum(1) - 1).clamp(0, 10)))


def mask_of(may_look: Callable[[Tensor, int], Tensor]) -> Make:
    """`may_look` maps the attention mask (B, P+T) and T to (B, 1, T, P+T)."""
    return lambda _, patch: patch.setattr(gpt2, "causal_mask", may_look)


def ahead(mask: Tensor, T: int, offset: int) -> Tensor:
    length = mask.shape[1]
    return torch.ones(length, length, dtype=torch.bool).tril(offset)[length - T :] & (mask != 0)[:, None, None, :]


mistake("mask off by one, so that a token sees the next")(mask_of(lambda mask, T: ahead(mask, T, 1)))
mistake("mask off by one, so that a token does not see itself")(mask_of(lambda mask, T: ahead(mask, T, -1)))
mistake("no causal mask")(mask_of(lambda mask, T: ahead(mask, T, mask.shape[1])))
mistake("causal mask aligned to the cache's start")(
    mask_of(lambda mask, T: ahead(mask, mask.shape[1], 0)[:, :, :T] & (mask != 0)[:, None, None, :])
)
mistake("padding not masked")(mask_of(lambda mask, T: ahead(torch.ones_like(mask), T, 0)))


def block_of(forward: Callable[[gpt2.Block, Tensor, KeyValue, Tensor], tuple[Tensor, KeyValue]]) -> Make:
    return lambda _, patch: patch.setattr(gpt2.Block, "forward", forward)


@mistake("norms after the additions instead of before")
@block_of
def post_norm(self: gpt2.Block, x: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
    attended, present = self.attn(x, past, mask)
    x = self.ln_1(x + attended)
    return self.ln_2(x + self.mlp(x)), present


@mistake("attention and MLP side by side")
@block_of
def parallel(self: gpt2.Block, x: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
    attended, present = self.attn(self.ln_1(x), past, mask)
    return x + attended + self.mlp(self.ln_2(x)), present


@mistake("no residual around the MLP")
@block_of
def no_residual(self: gpt2.Block, x: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
    attended, present = self.attn(self.ln_1(x), past, mask)
    return self.mlp(self.ln_2(x + attended)), present


@mistake("one norm used twice")
@block_of
def one_norm(self: gpt2.Block, x: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
    attended, present = self.attn(self.ln_1(x), past, mask)
    x = x + attended
    return x + self.mlp(self.ln_1(x)), present


@mistake("the last LayerNorm missing")
def no_last_norm(model: GPT2, _: pytest.MonkeyPatch) -> None:
    model.ln_f = nn.Identity()


@mistake("a head of its own ignored", variant="untied")
def head_tied(model: GPT2, _: pytest.MonkeyPatch) -> None:
    model.lm_head.weight = model.wte.weight


@mistake("bias of the attention projection dropped with the masks")
def no_attention_bias(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for block in model.h:
        nn.init.zeros_(block.attn.c_attn.bias)


@mistake("past and present joined in the wrong order")
def past_last(_: GPT2, patch: pytest.MonkeyPatch) -> None:
    attend = gpt2.CausalSelfAttention.attend

    def turned(
        self: gpt2.CausalSelfAttention, q: Tensor, k: Tensor, v: Tensor, past: KeyValue, mask: Tensor
    ) -> tuple[Tensor, KeyValue]:
        y, _ = attend(self, q, past.key, past.value, KeyValue(k, v), mask)
        return y, KeyValue(torch.cat((past.key, k), dim=2), torch.cat((past.value, v), dim=2))

    patch.setattr(gpt2.CausalSelfAttention, "attend", turned)


@mistake("the cache of one layer given to the next")
def caches_shifted(model: GPT2, _: pytest.MonkeyPatch) -> None:
    def shift(module: nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
        ids, cache, *rest = args
        return ids, cache and (*cache[1:], cache[0]), *rest

    model.register_forward_pre_hook(shift)


@mistake("dropout left on")
def dropout(model: GPT2, _: pytest.MonkeyPatch) -> None:
    model.train()


@mistake("weights rounded to bfloat16")
def rounded_weights(model: GPT2, _: pytest.MonkeyPatch) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().to(parameter.dtype)


@mistake("one weight of a thousand wrong by a thousandth")
def one_weight(model: GPT2, _: pytest.MonkeyPatch) -> None:
    model.h[0].mlp.c_fc.weight.data[3] *= 1.001
