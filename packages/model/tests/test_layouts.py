"""Checkpoints of wrappers and other programs convert exactly to transformers' layout, with a warning."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from gpt2_model import GPT2, CheckpointWarning, SourceError, TensorError
from gpt2_model.checkpoint import Checkpoint, open_checkpoint
from gpt2_model.layouts import INNER, PREFIXES
from gpt2_model.weights import load, stored_tensors
from torch import Tensor

MakeModel = Callable[..., GPT2]
MakeFolder = Callable[..., Path]
Tensors = dict[str, Tensor]
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
EMBEDDING = "transformer.wte.weight"


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> GPT2:
    return make_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def untied(make_model: MakeModel) -> GPT2:
    return make_model(dtype=torch.float32, tie_word_embeddings=False)


def assert_same(checkpoint: Checkpoint, expected: Tensors) -> None:
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name](), tensor), name


def linear(tensors: Tensors) -> Tensors:
    """As torch's Linear keeps matrices: [out, in]."""
    return {name: tensor.t().contiguous() if name.endswith(MATRICES) else tensor for name, tensor in tensors.items()}


def without_biases(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".bias")}


def with_zero_biases(tensors: Tensors) -> Tensors:
    return {name: tensor * 0 if name.endswith(".bias") else tensor for name, tensor in tensors.items()}


def refusal(kind: type[Exception], folder: Path) -> str:
    with pytest.raises(kind) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


WRAPPED = [*PREFIXES, "module._orig_mod.", "_orig_mod.module.", "model.base_model.model.", "module.module.model."]


@pytest.mark.parametrize("prefix", WRAPPED)
@pytest.mark.parametrize("bare", [False, True], ids=["GPT2LMHeadModel", "GPT2Model"])
def test_a_wrappers_prefix_on_every_name_is_removed(
    prefix: str, bare: bool, model: GPT2, make_folder: MakeFolder
) -> None:
    tensors = stored_tensors(model)
    if bare:
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    checkpoint = open_checkpoint(make_folder(model, tensors={prefix + name: each for name, each in tensors.items()}))
    assert_same(checkpoint, tensors)
    (warning,) = checkpoint.warnings
    assert f"begins with {prefix}, a prefix left by " in warning


def test_an_untied_head_and_masks_have_the_prefix_too(untied: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(untied) | {"transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16)}
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    with pytest.warns(CheckpointWarning, match=r"begins with module\."):
        loaded = load(make_folder(untied, tensors=wrapped))
    assert torch.equal(loaded.lm_head.weight, untied.lm_head.weight)


@pytest.mark.parametrize("prefix", WRAPPED)
def test_a_prefix_on_only_some_names_is_refused_in_one_sentence(
    prefix: str, model: GPT2, make_folder: MakeFolder
) -> None:
    tensors = {prefix + name if "h.1." in name else name: tensor for name, tensor in stored_tensors(model).items()}
    message = refusal(TensorError, make_folder(model, tensors=tensors))
    assert "12 of 28 tensor names begin with " in message
    assert message.endswith("save the model without its wrapper")


@pytest.mark.parametrize("part", INNER)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_inner_names_of_wrapped_blocks_are_removed(
    part: str, prefix: str, model: GPT2, make_folder: MakeFolder
) -> None:
    """As saved by accelerate's regional compilation and by activation checkpointing."""
    tensors = stored_tensors(model)
    wrapped = {prefix + re.sub(r"\.h\.(\d+)\.", rf".h.\1.{part}", name): each for name, each in tensors.items()}
    checkpoint = open_checkpoint(make_folder(model, tensors=wrapped))
    assert_same(checkpoint, tensors)
    assert f"tensor names contain {part}, left by {INNER[part]}; it was removed" in checkpoint.warnings


def test_a_block_with_and_without_its_wrapping_is_refused(model: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(model) | {"transformer.h.0._orig_mod.ln_1.bias": torch.ones(12)}
    assert "names are the same without _orig_mod." in refusal(TensorError, make_folder(model, tensors=tensors))


def test_a_name_with_and_without_the_prefix_is_refused(model: GPT2, make_folder: MakeFolder) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in stored_tensors(model).items()}
    tensors |= {"v_head.a": torch.ones(1), "module.v_head.a": torch.ones(1)}
    assert "names are the same without module." in refusal(TensorError, make_folder(model, tensors=tensors))


HEADS = {
    "v_head.summary.weight": "TRL's value head",
    "v_head.0.weight": "TRL's value head",
    "multiple_choice_head.summary.weight": "GPT2DoubleHeadsModel's second head",
    "summary.weight": "a sequence summary head",
    "score.weight": "GPT2ForSequenceClassification",
    "classifier.weight": "GPT2ForTokenClassification",
    "qa_outputs.bias": "GPT2ForQuestionAnswering",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("prefix", ["", "module.", "pretrained_model."])
def test_a_language_model_with_another_head_is_read_without_it(
    head: str, prefix: str, model: GPT2, make_folder: MakeFolder
) -> None:
    tensors = {prefix + name: tensor for name, tensor in stored_tensors(model).items()}
    beside = head if prefix == "pretrained_model." else prefix + head  # TRL keeps it beside the model
    checkpoint = open_checkpoint(make_folder(model, tensors=tensors | {beside: torch.ones(2, 12)}))
    assert_same(checkpoint, stored_tensors(model))
    assert f"{head} was left out: {HEADS[head]}" in checkpoint.warnings


def test_many_tensors_of_a_head_are_counted(model: GPT2, make_folder: MakeFolder) -> None:
    head = {f"v_head.{i}.weight": torch.ones(2) for i in range(9)}
    (warning,) = open_checkpoint(make_folder(model, tensors=stored_tensors(model) | head)).warnings
    assert warning == "v_head.0.weight, v_head.1.weight, v_head.2.weight and 6 more were left out: TRL's value head"


CLASSIFIERS = ["GPT2ForSequenceClassification", "GPT2ForTokenClassification", "GPT2ForQuestionAnswering"]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("head", [{"score.weight": torch.ones(2, 12)}, {}], ids=["with its head", "without"])
def test_a_bare_classifier_is_refused_by_its_class(
    name: str, head: Tensors, model: GPT2, make_folder: MakeFolder
) -> None:
    folder = make_folder(model, tensors=stored_tensors(model) | head, config={"architectures": [name]})
    assert refusal(SourceError, folder) == (
        f"{folder} is a classifier, {name}: it has no language model head; name the language model it was made from"
    )


@pytest.mark.parametrize("classes", [None, [], ["GPT2Model"], "GPT2LMHeadModel", [7, None], {"a": 1}])
@pytest.mark.parametrize("head", ["score.weight", "classifier.bias", "qa_outputs.weight"])
def test_a_classifiers_head_is_refused_unless_the_class_is_a_language_model(
    classes: object, head: str, model: GPT2, make_folder: MakeFolder
) -> None:
    tensors = stored_tensors(model) | {head: torch.ones(2)}
    message = refusal(SourceError, make_folder(model, tensors=tensors, config={"architectures": classes}))
    assert f"is a classifier, {HEADS.get(head, 'GPT2For')}" in message
    assert head in message


@pytest.mark.parametrize("name", [*CLASSIFIERS, "GPT2LMHeadModel"])
def test_a_classifier_with_a_language_model_head_is_read(name: str, untied: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(untied) | {"score.weight": torch.ones(2, 12)}
    checkpoint = open_checkpoint(make_folder(untied, tensors=tensors, config={"architectures": [name]}))
    assert_same(checkpoint, stored_tensors(untied))


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight",
        "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight",
        "base_model.model.transformer.h.0.attn.c_attn.base_layer.weight",
        "base_model.model.transformer.wte.lora_embedding_A.default",
        "base_model.model.lm_head.modules_to_save.default.weight",
        "base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector.default.weight",
        "base_model.model.transformer.h.0.mlp.c_proj.ia3_l.default",
        "transformer.h.0.attn.c_attn.hada_w1_a.default",
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_that_is_not_merged_is_refused_as_one(
    name: str, alone: bool, model: GPT2, make_folder: MakeFolder
) -> None:
    rest = {} if alone else {f"base_model.model.{key}": tensor for key, tensor in stored_tensors(model).items()}
    message = refusal(SourceError, make_folder(model, tensors=rest | {name: torch.ones(2)}))
    assert "holds an adapter that is not merged (" in message
    assert "merge_and_unload" in message


@pytest.mark.parametrize("fields", [{}, {"n_inner": 12}, {"n_inner": 36}, {"n_inner": 5}, {"n_embd": 3, "n_head": 1}])
def test_linear_matrices_are_transposed_square_ones_too(
    fields: dict[str, int], make_model: MakeModel, make_folder: MakeFolder
) -> None:
    model = make_model(dtype=torch.float32, **fields)
    checkpoint = open_checkpoint(make_folder(model, tensors=linear(stored_tensors(model))))
    assert_same(checkpoint, stored_tensors(model))
    assert any("each was transposed" in warning for warning in checkpoint.warnings)
    with pytest.warns(CheckpointWarning, match="each was transposed"):
        loaded = load(checkpoint.folder)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded(ids)[0], model(ids)[0])


def test_a_linear_model_without_any_bias_gets_zeros(model: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(model)
    checkpoint = open_checkpoint(make_folder(model, tensors=without_biases(linear(tensors))))
    assert_same(checkpoint, with_zero_biases(tensors))
    assert any("there are no biases" in warning for warning in checkpoint.warnings)


@pytest.mark.parametrize(
    "bias", ["transformer.h.0.ln_1.bias", "transformer.ln_f.bias", "transformer.h.1.mlp.c_fc.bias"]
)
def test_biases_may_not_be_absent_if_one_is_there(bias: str, model: GPT2, make_folder: MakeFolder) -> None:
    tensors = linear(stored_tensors(model))
    message = refusal(TensorError, make_folder(model, tensors=without_biases(tensors) | {bias: tensors[bias]}))
    assert "missing" in message


def test_masks_are_not_biases(model: GPT2, make_folder: MakeFolder) -> None:
    """minGPT saves them, and nanoGPT without flash attention."""
    tensors = stored_tensors(model)
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in (0, 1)}
    with pytest.warns(CheckpointWarning) as caught:
        loaded = load(make_folder(model, tensors=without_biases(linear(tensors)) | masks))
    assert ["there are no biases" in str(each.message) for each in caught] == [False, True]
    assert torch.equal(stored_tensors(loaded)[EMBEDDING], tensors[EMBEDDING])


def test_absent_biases_of_transformers_own_layout_are_missing(model: GPT2, make_folder: MakeFolder) -> None:
    folder = make_folder(model, tensors=without_biases(stored_tensors(model)))
    assert "missing h.*.ln_1.bias (in 2 blocks)" in refusal(TensorError, folder)


@pytest.mark.parametrize("back", ["h.0.attn.c_attn", "h.1.mlp.c_fc", "h.0.mlp.c_proj"])
def test_one_matrix_in_another_layout_than_the_rest_is_refused(back: str, model: GPT2, make_folder: MakeFolder) -> None:
    tensors, name = linear(stored_tensors(model)), f"transformer.{back}.weight"
    folder = make_folder(model, tensors=tensors | {name: tensors[name].t().contiguous()})
    assert "has shape" in refusal(TensorError, folder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("disguise", [dict, linear], ids=["Conv1D", "Linear"])
def test_a_padded_vocabulary_is_cut_to_what_the_config_states(
    tied: bool, disguise: Callable[[Tensors], Tensors], make_model: MakeModel, make_folder: MakeFolder
) -> None:
    model = make_model(dtype=torch.float32, tie_word_embeddings=tied)
    tensors = stored_tensors(model)
    padded = {
        name: torch.cat((tensor, torch.ones(14, 12))) if name in (EMBEDDING, "lm_head.weight") else tensor
        for name, tensor in tensors.items()
    }
    checkpoint = open_checkpoint(make_folder(model, tensors=disguise(padded)))
    assert_same(checkpoint, tensors)
    warning = "the embedding has 64 rows, config.json's vocab_size is 50; the rows beyond it were cut as padding"
    assert warning in checkpoint.warnings


@pytest.mark.parametrize(("rows", "stated"), [(53, 50), (64, 70), (192, 50), (63, 50), (128, None), (64, "50")])
def test_a_row_count_that_cannot_be_padding_is_not_cut(
    rows: int, stated: object, model: GPT2, make_folder: MakeFolder
) -> None:
    tensors = stored_tensors(model) | {EMBEDDING: torch.ones(rows, 12)}
    checkpoint = open_checkpoint(make_folder(model, tensors=tensors, config={"vocab_size": stated}))
    assert checkpoint.tensors[EMBEDDING]().shape[0] == rows
    assert checkpoint.warnings == ()


def shuffled(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name[::-1])


def test_every_conversion_at_once(make_model: MakeModel, make_folder: MakeFolder) -> None:
    """Compiled, distributed, Linear, without biases, padded, with another head and masks."""
    model = make_model(dtype=torch.float32)
    tensors = without_biases(linear(stored_tensors(model)))
    tensors[EMBEDDING] = torch.cat((tensors[EMBEDDING], torch.ones(14, 12)))
    tensors |= {"lm_head.weight": tensors[EMBEDDING].clone(), "v_head.summary.weight": torch.ones(1, 12)}
    wrapped = {f"module._orig_mod.{name}": tensors[name] for name in shuffled(tensors)}
    with pytest.warns(CheckpointWarning) as caught:
        loaded = load(make_folder(model, tensors=wrapped))
    assert len(caught) == 5
    checkpoint = stored_tensors(loaded)
    assert all(torch.equal(checkpoint[name], each) for name, each in with_zero_biases(stored_tensors(model)).items())


def test_names_that_resemble_a_prefix_or_a_head_are_left_alone(model: GPT2, make_folder: MakeFolder) -> None:
    for name in ("modules.wte.weight", "my_score.weight", "v_heads.a", "xlora_A", "score", "module"):
        folder = make_folder(model, tensors=stored_tensors(model) | {name: torch.ones(1)}, name=name)
        assert re.search(rf"unexpected {name}\b", refusal(TensorError, folder))
