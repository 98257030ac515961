"""The network: each part has its defining property, and a text reads the same in pieces and in rows."""

import math
from collections.abc import Callable

import pytest
import torch
from gpt2_model import GPT2, GPT2Config
from gpt2_model.gpt2 import ACTIVATIONS, MLP, Block, CausalSelfAttention, KeyValue
from gpt2_model.weights import parameter_shapes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.nn import functional as F

LENGTH = 12
TEXT = torch.randint(50, (3, LENGTH), generator=torch.Generator().manual_seed(1))
CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64: only the order of sums may differ


def stream(model: GPT2, length: int = 5) -> Tensor:
    """A residual stream (1, T, C) as input to one part of the network."""
    rng = torch.Generator().manual_seed(2)
    return torch.randn(1, length, model.config.n_embd, generator=rng, dtype=torch.float64)


def at_start(part: CausalSelfAttention | Block) -> Callable[[Tensor], Tensor]:
    """Attention or a block as a function of the stream alone: no cache, no padding."""

    def run(x: Tensor) -> Tensor:
        nothing = x.new_empty(len(x), 3, 0, 4)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return part(x, KeyValue(nothing, nothing), mask)[0]

    return run


def reads(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(T, T): whether the output at one position depends on the input at another."""
    slopes = jacobian(lambda row: function(row[None])[0], x[0])  # (T, C, T, C)
    return slopes.abs().amax(dim=(1, 3)) > 0


def test_attention_reads_the_present_and_the_past_and_nothing_else(model: GPT2) -> None:
    table = reads(at_start(model.h[0].attn), stream(model))
    assert torch.equal(table, torch.ones(5, 5, dtype=torch.bool).tril())


def test_the_mlp_reads_its_own_position_and_nothing_else(model: GPT2) -> None:
    assert torch.equal(reads(model.h[0].mlp, stream(model)), torch.eye(5, dtype=torch.bool))


def test_the_mlp_commutes_with_any_permutation_of_the_positions(model: GPT2) -> None:
    x, order = stream(model), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model.h[0].mlp(x[:, order]), model.h[0].mlp(x)[:, order], **CLOSE)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("by_layer", [True, False])
def test_attention_is_the_equation_written_out(make_model: Callable[..., GPT2], scaled: bool, by_layer: bool) -> None:
    model = make_model(scale_attn_weights=scaled, scale_attn_by_inverse_layer_idx=by_layer)
    attention, x = model.h[1].attn, stream(model)
    width, size = 12, 4
    fused = x[0] @ attention.c_attn.weight.T + attention.c_attn.bias
    scale = (0.5 if scaled else 1.0) / (2 if by_layer else 1)
    mixed = torch.zeros(5, width, dtype=torch.float64)
    for head in range(3):
        q, k, v = (fused[:, part * width + head * size :][:, :size] for part in range(3))
        for t in range(5):
            weights = torch.stack([q[t] @ k[s] * scale for s in range(t + 1)]).exp()
            mixed[t, head * size : (head + 1) * size] = (weights / weights.sum()) @ v[: t + 1]
    expected = mixed @ attention.c_proj.weight.T + attention.c_proj.bias
    torch.testing.assert_close(at_start(attention)(x)[0], expected, **CLOSE)


def test_gradient_flows_through_a_block_to_every_parameter(make_model: Callable[..., GPT2]) -> None:
    model = make_model()
    block, x = model.h[0], stream(model).requires_grad_()
    y = at_start(block)(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()} | {"x": x.grad}
    for part, gradient in zip("qkv", gradients["attn.c_attn.weight"].chunk(3), strict=True):
        gradients[f"attn.c_attn.weight {part}"] = gradient
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


def test_a_block_adds_attention_and_then_the_mlp_each_of_the_normed_stream(model: GPT2) -> None:
    block, x = model.h[0], stream(model)
    attended = x + at_start(block.attn)(block.ln_1(x))
    torch.testing.assert_close(at_start(block)(x), attended + block.mlp(block.ln_2(attended)), **CLOSE)


def test_a_block_whose_projections_are_zero_leaves_the_stream_alone(make_model: Callable[..., GPT2]) -> None:
    model = make_model()
    block, x = model.h[0], stream(model)
    for part in (block.attn.c_proj, block.mlp.c_proj):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    assert torch.equal(at_start(block)(x), x)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_the_gelu_of_gpt2_is_the_tanh_formula(name: str) -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(ACTIVATIONS[name](x), expected, **CLOSE)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
        ("relu", lambda x: x * (x > 0)),
        ("silu", lambda x: x / (1 + torch.exp(-x))),
        ("swish", lambda x: x / (1 + torch.exp(-x))),
    ],
)
def test_every_other_activation_is_its_formula(name: str, formula: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), formula(x), **CLOSE)


def test_the_mlp_uses_the_activation_and_the_width_of_its_config() -> None:
    mlp = MLP(GPT2Config(n_embd=12, n_head=3, n_inner=20, activation_function="relu", resid_pdrop=0.0))
    x = torch.randn(1, 4, 12)
    expected = (x @ mlp.c_fc.weight.T + mlp.c_fc.bias).clamp(min=0) @ mlp.c_proj.weight.T + mlp.c_proj.bias
    assert mlp.c_fc.weight.shape == (20, 12)
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize(("upcast", "finite"), [(True, True), (False, False)])
def test_upcast_attention_keeps_half_precision_scores_finite(
    make_model: Callable[..., GPT2], upcast: bool, finite: bool
) -> None:
    attention = make_model(reorder_and_upcast_attn=upcast).h[0].attn
    q = torch.full((1, 3, 1, 4), 300.0, dtype=torch.float16)
    assert bool(attention.scores(q, q).isfinite().all()) is finite


@given(first=st.integers(1, LENGTH - 1), seed=st.integers(0, 10**6))
def test_a_later_token_never_changes_an_earlier_output(model: GPT2, first: int, seed: int) -> None:
    changed = TEXT.clone()
    rng = torch.Generator().manual_seed(seed)
    changed[:, first:] = (TEXT[:, first:] + torch.randint(1, 50, (3, LENGTH - first), generator=rng)) % 50
    before, after = model(TEXT)[0], model(changed)[0]
    assert torch.equal(before[:, :first], after[:, :first])
    assert (before[:, first:] != after[:, first:]).flatten(2).any(dim=2).all()


@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=LENGTH))
def test_cached_equals_uncached_at_any_split(model: GPT2, sizes: list[int]) -> None:
    whole, memory = model(TEXT)
    logits, cache, start = [], None, 0
    for size in [*sizes, LENGTH]:
        if start < LENGTH:
            part, cache = model(TEXT[:, start : start + size], cache)
            logits.append(part)
            start += size
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, **CLOSE)
    torch.testing.assert_close(cache, memory, **CLOSE)


def test_a_cache_is_never_changed_in_place(model: GPT2) -> None:
    _, cache = model(TEXT[:, :6])
    before = [tensor.clone() for layer in cache for tensor in layer]
    model(TEXT[:, 6:], cache)
    after = [tensor for layer in cache for tensor in layer]
    assert all(map(torch.equal, before, after))


def test_a_batch_equals_its_rows(model: GPT2) -> None:
    rows = torch.cat([model(row[None])[0] for row in TEXT])
    torch.testing.assert_close(model(TEXT)[0], rows, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_equals_the_row_alone_in_the_prompt_and_after_it(model: GPT2, side: str) -> None:
    lengths, longest, extra = (3, 7, 5), 7, 2
    ids, mask = torch.zeros(3, longest, dtype=torch.long), torch.zeros(3, longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        text = slice(longest - length, None) if side == "left" else slice(length)
        ids[row, text], mask[row, text] = TEXT[row, :length], 1
    more = torch.stack([TEXT[row, length : length + extra] for row, length in enumerate(lengths)])
    prompt, cache = model(ids, attention_mask=mask)
    mask = torch.cat((mask, torch.ones(3, extra, dtype=torch.long)), dim=1)
    after, _ = model(more, cache, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone = model(TEXT[row : row + 1, : length + extra])[0][0]
        padded = torch.cat((prompt[row], after[row]))[mask[row] == 1]
        torch.testing.assert_close(padded, alone, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_padding_with_nothing_to_attend_to_is_not_nan(make_model: Callable[..., GPT2], dtype: torch.dtype) -> None:
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, :4] = 0
    assert make_model(dtype=dtype)(TEXT, attention_mask=mask)[0].isfinite().all()


def test_positions_count_the_text_and_skip_the_padding(model: GPT2) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1]])
    assert model.positions(mask).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1]]


def test_explicit_positions_are_used(model: GPT2) -> None:
    counted = torch.arange(LENGTH).expand(3, -1)
    assert torch.equal(model(TEXT, position_ids=counted)[0], model(TEXT)[0])
    assert not torch.allclose(model(TEXT, position_ids=counted.flip(1))[0], model(TEXT)[0])


@pytest.mark.parametrize("past", [0, 1, 10])
def test_a_text_beyond_the_context_is_refused_with_both_numbers(model: GPT2, past: int) -> None:
    text = torch.zeros(1, 17, dtype=torch.long)
    cache = model(text[:, :past])[1] if past else None
    with pytest.raises(ValueError, match="17 tokens, but the model reads at most 16"):
        model(text[:, past:], cache)
    assert model(text[:, past:16], cache)[0].shape == (1, 16 - past, 50)


def test_a_tied_head_is_the_embedding_and_learns_with_it(make_model: Callable[..., GPT2]) -> None:
    model = make_model()
    assert model.lm_head.weight is model.wte.weight
    assert "lm_head.weight" not in dict(model.named_parameters())
    model.loss(TEXT % 49).backward()
    assert model.wte.weight.grad is not None
    assert model.wte.weight.grad[49].any(), "a token that is not in the text has a gradient too: the head scores it"


def test_an_untied_head_is_a_parameter_of_its_own(make_model: Callable[..., GPT2]) -> None:
    model = make_model(tie_word_embeddings=False)
    assert model.lm_head.weight is not model.wte.weight
    assert {"lm_head.weight", "wte.weight"} <= dict(model.named_parameters()).keys()


def test_every_parameter_learns_from_the_loss(make_model: Callable[..., GPT2]) -> None:
    model = make_model(tie_word_embeddings=False)
    model.loss(TEXT).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("tied", [True, False])
def test_an_untrained_model_loses_about_log_v(tied: bool) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1000, n_positions=64, n_embd=64, n_layer=2, n_head=4, tie_word_embeddings=tied)
    loss = GPT2(config).eval().loss(torch.randint(1000, (8, 64))).item()
    assert loss == pytest.approx(math.log(1000), abs=0.05)


def test_the_loss_is_the_mean_surprise_at_each_next_token(model: GPT2) -> None:
    log_probs = model(TEXT)[0].log_softmax(dim=-1)
    surprises = [-log_probs[row, t, TEXT[row, t + 1]] for row in range(3) for t in range(LENGTH - 1)]
    torch.testing.assert_close(model.loss(TEXT), torch.stack(surprises).mean(), **CLOSE)


def test_labels_of_minus_100_are_not_counted(model: GPT2) -> None:
    labels = TEXT.clone()
    labels[:, 7:] = -100
    torch.testing.assert_close(model.loss(TEXT, labels), model.loss(TEXT[:, :7]), **CLOSE)


def test_dropout_acts_in_training_only(make_model: Callable[..., GPT2]) -> None:
    model = make_model()
    expected = model(TEXT)[0]
    assert torch.equal(model(TEXT)[0], expected)
    model.train()
    assert not torch.equal(model(TEXT)[0], model(TEXT)[0])


@pytest.mark.parametrize("rate", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_each_dropout_rate_acts_on_its_own(make_model: Callable[..., GPT2], rate: str) -> None:
    model = make_model(**({"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0} | {rate: 0.5}))
    without = model(TEXT)[0]
    assert not torch.allclose(model.train()(TEXT)[0], without)


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_dropout_thins_what_a_part_adds_and_rescales_the_rest(make_model: Callable[..., GPT2], part: str) -> None:
    model = make_model(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.5)
    module, x = model.h[0].get_submodule(part), stream(model)
    run = module if isinstance(module, MLP) else at_start(module)
    whole = run(x)
    module.train()
    thinned = run(x)
    kept = thinned != 0
    assert kept.any()
    assert not kept.all()
    torch.testing.assert_close(thinned[kept], 2 * whole[kept], **CLOSE)


def test_training_without_dropout_equals_evaluation(make_model: Callable[..., GPT2]) -> None:
    model = make_model(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    assert torch.equal(model(TEXT)[0], model.train()(TEXT)[0])


def test_initial_weights_are_gpt2s_own() -> None:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=500, n_positions=500, n_embd=64, n_layer=8, n_head=4, initializer_range=0.03))
    for name, parameter in model.named_parameters():
        if "ln_" in name:
            assert torch.equal(parameter, torch.full_like(parameter, name.endswith("weight"))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            std = 0.03 / 4 if name.endswith("c_proj.weight") else 0.03  # two additions to the stream a layer: √16
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        ({}, 124_439_808),
        ({"n_embd": 1024, "n_layer": 24, "n_head": 16}, 354_823_168),
        ({"n_embd": 1280, "n_layer": 36, "n_head": 20}, 774_030_080),
        ({"n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200),
        ({"n_layer": 6}, 81_912_576),
    ],
    ids=["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"],
)
def test_the_published_models_have_their_published_number_of_parameters(sizes: dict[str, int], published: int) -> None:
    assert sum(map(math.prod, parameter_shapes(GPT2Config(**sizes)).values())) == published


def test_the_head_scores_every_token_by_its_dot_product_with_the_normed_stream(model: GPT2) -> None:
    heard: list[Tensor] = []
    handle = model.ln_f.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0]))
    logits, _ = model(TEXT)
    handle.remove()
    normed = F.layer_norm(heard[0], (12,), model.ln_f.weight, model.ln_f.bias, 1e-5)
    torch.testing.assert_close(logits, normed @ model.wte.weight.T, **CLOSE)
