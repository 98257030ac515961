"""Adapters that run in this environment, on the CPU with a tiny model: those of a GPU are the same code."""

from pathlib import Path

import pytest

TINY = Path(__file__).parents[1] / "packages/runtime/tests/data/tiny"
PROMPTS = [[5, 6, 7], [8, 9, 10]]


@pytest.fixture
def transformers(tmp_path):
    pytest.importorskip("transformers")
    from adapters.transformers import Transformers

    def load(precision, **options):
        adapter = Transformers()
        adapter.load(str(TINY), precision, 1, device="cpu", **options)
        return adapter

    return load


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
def test_ours_and_transformers_give_the_same_ids_one_row_or_several(transformers, prompts):
    pytest.importorskip("onnxruntime")
    from adapters.ours import Ours

    ours, theirs = Ours(), transformers("fp32")
    ours.load(str(TINY), "fp32", 1, device="cpu", graph="serving")
    replies = [adapter.generate(prompts, 9) for adapter in (ours, theirs)]
    assert replies[0]["ids"] == replies[1]["ids"]
    for adapter, reply in zip((ours, theirs), replies, strict=True):
        assert reply["first_token_seconds"] > 0
        assert reply["decode_seconds"] > 0
        adapter.release()
        assert adapter.generate(prompts, 9)["ids"] == reply["ids"]


def test_compiled_steps_are_of_one_cache_a_shape_and_give_the_same_ids(transformers, monkeypatch):
    import torch

    compiled = []

    def compile_nothing(function, **settings):
        compiled.append(settings)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", torch._dynamo.config.recompile_limit)
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", False)
    plain, static = transformers("fp32"), transformers("fp32", compiled=True)
    for prompts, new in [(PROMPTS, 9), (PROMPTS[:1], 20), (PROMPTS, 9), (PROMPTS, 1)]:
        assert static.generate(prompts, new)["ids"] == plain.generate(prompts, new)["ids"]
        static.release()
    assert {shape: cache.layers[0].max_cache_len for shape, cache in static.caches.items()} == {
        (2, 12): 16,
        (1, 23): 24,
        (2, 4): 8,
    }
    assert [(each["mode"], each["fullgraph"], each["dynamic"]) for each in compiled] == [
        ("reduce-overhead", True, False)
    ]


def test_half_precision_is_torchs_float16(transformers):
    import torch

    adapter = transformers("fp16")
    assert {weight.dtype for weight in adapter.model.parameters()} == {torch.float16}
    assert len(adapter.generate(PROMPTS, 3)["ids"][1]) == 3
