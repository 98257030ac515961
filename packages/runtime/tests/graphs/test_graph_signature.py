from dataclasses import replace

import pytest
from gpt2_runtime import Session
from gpt2_runtime.errors import GraphError
from gpt2_runtime.graphs.graph_signature import Signature, TensorSpec, cache_names


def test_both_graphs_of_the_folder_are_as_they_must_be(either):
    expected = Signature.of(either.graph, either.bundle.architecture)
    either.signature.check("tiny", expected, either.graph)
    assert [spec.name for spec in either.signature.inputs][-4:] == cache_names("past_key_values", 2)


def test_the_graphs_are_distinguished(serving, portable):
    expected = Signature.of("portable", serving.bundle.architecture)
    with pytest.raises(GraphError) as refusal:
        serving.signature.check("model.onnx", expected, "portable")
    assert str(refusal.value) == (
        "model.onnx: inputs are not the portable graph's: missing attention_mask; "
        "unexpected seqlens_k, total_sequence_length, logits_index; export the folder again"
    )


@pytest.mark.parametrize("graph", ["serving", "portable"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(n_layer=3), r"config\.json: n_layer is 3, .*\.onnx has 2 layers; the folder is damaged"),
        (lambda c: c.update(n_layer=1), r"config\.json: n_layer is 1, .*\.onnx has 2 layers; the folder is damaged"),
        (lambda c: c.update(n_head=2), r"past_key_values\.0\.key is tensor\(float\) .*, config\.json requires .* 2, "),
        (lambda c: c.update(vocab_size=301), r"vocab_size is 301, transformer\.wte\.weight of .* is \[300, 32\]; "),
        (lambda c: c.update(n_positions=65), r"n_embd\] is \[65, 32\], transformer\.wpe\.weight of .* is \[64, 32\]; "),
        (lambda c: c.update(n_embd=64), r"n_embd\] is \[64, 64\], transformer\.wpe\.weight of .* is \[64, 32\]; "),
    ],
)
def test_a_graph_of_another_model_is_refused_by_name(damaged, edit, graph, change, message):
    edit(damaged / "config.json", change)
    with pytest.raises(GraphError, match=message):
        Session.open(damaged, graph=graph)


def test_layers_and_logits_are_compared_as_well(serving):
    sizes = serving.bundle.architecture
    for change, message in [
        ({"n_layer": 3}, r"missing past_key_values\.2\.key, past_key_values\.2\.value; unexpected none"),
        ({"n_layer": 1}, r"missing none; unexpected past_key_values\.1\.key"),
        ({"vocab_size": 301}, r"output logits is .* 300\], config\.json requires .* 301\]"),
    ]:
        with pytest.raises(GraphError, match=message):
            serving.signature.check("g", Signature.of("serving", replace(sizes, **change)), "serving")


def test_a_tensor_of_another_type_is_refused():
    half, full = (
        Signature(inputs=(TensorSpec(name="x", type=f"tensor({type_})", shape=("n", 4)),), outputs=())
        for type_ in ("float16", "float")
    )
    with pytest.raises(GraphError, match=r"g: input x is tensor\(float16\) \['n', 4\], config.json requires tensor"):
        half.check("g", full, "serving")
