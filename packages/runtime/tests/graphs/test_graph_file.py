"""A graph is held to what it may consist of, and its weights to their file, before onnxruntime sees either."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import wire
from gpt2_runtime import GREEDY, Bundle, Session, TextGenerator
from gpt2_runtime.errors import BundleError, GraphError, SettingError
from gpt2_runtime.explain.explainer import Explainer
from gpt2_runtime.folder.weights_file import WeightsFile
from gpt2_runtime.graphs import graph_file as module
from gpt2_runtime.graphs.graph_signature import Signature
from gpt2_runtime.providers.providers import PROVIDERS
from wire import field, node, tensor, with_more

KINDS = ["serving", "portable", "explaining"]
NAMES = {"serving": "model_serving.onnx", "portable": "model.onnx", "explaining": "model_explain.onnx"}


def opened(folder, kind, **settings):
    if kind == "explaining":
        return Explainer.open(folder, threads=1, **settings)
    return Session.open(folder, threads=1, graph=kind, **settings)


@pytest.fixture
def graph(damaged, edit):
    """Puts more into a graph of the folder, and seals it."""

    def graph(kind, more):
        path = damaged / NAMES[kind]
        wire.rewrite(path, partial(with_more, more=more))
        edit(damaged / "manifest.json", lambda m: m["files"][path.name].update(bytes=path.stat().st_size))

    return graph


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (node("Loop"), "has operators 'Loop', which no fp32 {kind} graph has"),
        (node("If") + node("Scan"), "has operators 'If', 'Scan', which no fp32 {kind} graph has"),
        (node("PyOp", domain="com.me"), "has operators 'com.me::PyOp'"),
        (node("ConstantOfShape"), "has operators 'ConstantOfShape'"),
        (node("SequenceConstruct"), "has operators 'SequenceConstruct'"),
        (node("MatMulNBits", domain="com.microsoft"), "has operators 'com.microsoft::MatMulNBits', which no fp32"),
        (b"".join(node(f"X{number}") for number in range(9)), "'X0', 'X1', 'X2', 'X3' and 5 more, which no"),
        (
            field(5, tensor("a", [2], 1, wire.placed("vocab.json", 0, 8))),
            "has weights in 'vocab.json', which is not among",
        ),
        (field(5, tensor("a", [2], 1, wire.placed("/etc/passwd", 0, 8))), "has weights in '/etc/passwd', which is not"),
        (field(5, tensor("a", [2], 1, wire.placed("../x", 0, 8))), "has weights in '../x', which is not among"),
        (
            field(5, tensor("a", [2], 1, wire.placed("model.safetensors", 0, 8))),
            "has no tensor with 8 bytes of float at 0, where the graph has 'a'",
        ),
        (
            field(5, tensor("a", [2], 1, wire.placed("model.safetensors", 10**17, 8))),
            "has no tensor with 8 bytes of float at 100,000,000,000,000,000",
        ),
        (
            field(5, tensor("a", [10**9], 1, wire.placed("model.safetensors", 4096, 4 * 10**9))),
            "has no tensor with 4,000,000,000 bytes of float",
        ),
    ],
)
def test_what_does_not_belong_into_a_graph_is_refused(damaged, graph, kind, more, message):
    graph(kind, more)
    with pytest.raises(GraphError) as refusal:
        opened(damaged, kind)
    assert message.format(kind=kind) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_operators_of_another_domain_are_refused_though_no_node_has_any(damaged, edit):
    path = damaged / "model_serving.onnx"
    wire.rewrite(path, lambda data: data + field(8, field(1, "com.me") + field(2, 1)))
    edit(damaged / "manifest.json", lambda m: m["files"][path.name].update(bytes=path.stat().st_size))
    with pytest.raises(GraphError, match=r"uses operator domain 'com\.me', must be ONNX's or com\.microsoft"):
        Session.open(damaged)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_layer", 10**9, "n_layer is 1000000000, .* has 2 layers"),
        ("n_positions", 512, r"\[n_positions, n_embd\] is \[512, 32\], transformer\.wpe\.weight .* is \[64, 32\]"),
        ("n_positions", 63, r"is \[63, 32\]"),
        ("vocab_size", 10**9, r"vocab_size is 1000000000, transformer\.wte\.weight of .* is \[300, 32\]"),
        ("vocab_size", 299, "vocab_size is 299"),
        ("n_embd", 32 * 10**7, "n_embd"),
        ("n_head", 2, r"config\.json requires"),
    ],
)
def test_sizes_that_are_not_the_graphs_are_refused(damaged, edit, kind, name, value, message):
    edit(damaged / "config.json", lambda c: c.update({name: value}))
    with pytest.raises(GraphError, match=message):
        opened(damaged, kind)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_so_they_are_in_every_precision(damaged, edit, precision, graph):
    for name, value in [("n_layer", 3), ("n_positions", 65), ("vocab_size", 301)]:
        held = (damaged / "config.json").read_bytes()
        edit(damaged / "config.json", lambda c, n=name, v=value: c.update({n: v}))
        with pytest.raises(GraphError, match=name):
            Session.open(damaged, precision=precision, graph=graph)
        (damaged / "config.json").write_bytes(held)
        edit(damaged / "config.json", lambda c: None)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "its header would have 0 bytes"),
        (b"[]", "holds \\[\\], not a JSON object"),
        (b"\xff\xff", "header that is not UTF-8 at byte 0"),
        (b"[" * 100_000, "is not readable JSON: RecursionError"),
        ({"a": 3}, "a is 3, not an object"),
        ({"a": {"dtype": "F32", "data_offsets": [0, 10**20]}}, "not two offsets within the"),
        ({"a": {"dtype": "F32", "data_offsets": [8, 4]}}, "not two offsets within the"),
        ({"a": {"dtype": "F32", "data_offsets": [-4, 4]}}, "not two offsets within the"),
        ({"a": {"dtype": "F32", "data_offsets": [0.0, 4]}}, "not two offsets within the"),
        ({"a": {"dtype": "F32", "data_offsets": [True, 4]}}, "not two offsets within the"),
        ({"a": {"dtype": "F32", "data_offsets": [0]}}, "not two offsets within the"),
        ({"a": {"dtype": 4, "data_offsets": [0, 4]}}, "dtype is 4, not text"),
        ({n: {"dtype": "F32", "data_offsets": [0, 4]} for n in "ab"}, "two tensors share the bytes from"),
    ],
)
def test_a_header_that_is_no_table_of_tensors_is_refused(tmp_path, header, message):
    path = tmp_path / "w.safetensors"
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(BundleError, match=message), path.open("rb", buffering=0) as stream:
        WeightsFile.read(path, stream)


def test_a_header_as_long_as_its_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    for size in (2**63, 100, 57):
        path.write_bytes(size.to_bytes(8, "little") + b"{" * 56)
        with (
            pytest.raises(BundleError, match=f"its header would have {size:,} bytes"),
            path.open("rb", buffering=0) as stream,
        ):
            WeightsFile.read(path, stream)


def links(folder, place, target):
    """A folder of links, each file where `place` puts it."""
    target.mkdir()
    for path in folder.iterdir():
        stored = place / path.name / path.name if place.name == "store" else place / path.name
        stored.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, stored)
        (target / path.name).symlink_to(os.path.relpath(stored, target))
    return target


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_linked_elsewhere_are_copied_or_refused_by_name(folder, tmp_path, kind):
    linked = links(folder, tmp_path / "store", tmp_path / "linked")
    for load in ("copy", "auto"):
        assert not opened(linked, kind, load=load).file.mapped
    message = (
        r"model\.safetensors is a link to .*/store/model\.safetensors/model\.safetensors, but onnxruntime maps weights"
    )
    with pytest.raises(
        BundleError, match=f"{message} only from the graph's folder; pass load='copy', or copy .* cp -rL$"
    ):
        opened(linked, kind, load="map")


@pytest.mark.parametrize("kind", KINDS)
def test_links_into_one_place_are_mapped_as_the_hubs_cache_has_them(folder, tmp_path, kind):
    linked = links(folder, tmp_path / "blobs", tmp_path / "snapshot")
    assert opened(linked, kind, load="map").file.mapped
    assert opened(linked, kind, load="auto").file.mapped
    assert not opened(linked, kind, load="copy").file.mapped


@pytest.mark.parametrize("load", [None, "mmap", 3, ["copy"]])
def test_another_way_to_load_is_refused(folder, load):
    for opens in (Session.open, TextGenerator.open, Explainer.open):
        with pytest.raises(SettingError, match=r"load is .*, must be 'copy', 'map' or 'auto'"):
            opens(folder, load=load)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("graph", ["serving", "portable"])
@pytest.mark.parametrize("prepack", [True, False])
def test_logits_are_the_same_bits_copied_and_mapped(folder, precision, graph, prepack):
    ids, found = np.random.default_rng(3).integers(0, 300, size=40), []
    for load in ("copy", "map"):
        session = Session.open(folder, threads=1, precision=precision, graph=graph, prepack=prepack, load=load)
        cache, logits = session.empty_cache(), []
        for start, stop in [(0, 8), (8, 9), (9, 40)]:
            step, cache = session.step(ids[None, start:stop], cache, stop - start)
            logits.append(step)
        found.append(np.concatenate(logits, axis=1))
    np.testing.assert_array_equal(*found)


def test_the_explaining_graph_gives_the_same_bits_copied_and_mapped(folder):
    copied, mapped = (Explainer.open(folder, threads=1, load=load).explain([5, 6, 7]) for load in ("copy", "map"))
    for name in ("log_probs", "lens_log_probs", "attentions"):
        np.testing.assert_array_equal(getattr(copied, name), getattr(mapped, name))


@pytest.fixture
def mappings():
    """How many places of this process's memory are of a file."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("no /proc/self/maps on this system")
    return lambda path: maps.read_text().count(f" {path}\n")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_copied_weights_lie_nowhere_in_the_files(damaged, mappings, precision):
    """Packed or not, no page of them is mapped."""
    weights = Bundle.open(damaged).files[Bundle.open(damaged).weights[precision]].path
    kept = [Session.open(damaged, threads=1, graph=graph, precision=precision) for graph in ("serving", "portable")]
    if precision == "fp32":
        kept += [Explainer.open(damaged, threads=1), Session.open(damaged, threads=1, prepack=False)]
    assert mappings(weights) == 0
    kept.append(Session.open(damaged, threads=1, precision=precision, load="map"))
    assert mappings(weights) > 0 or precision == "fp16"  # whose numbers are all made into float32 ones
    assert mappings(damaged / "nothing") == 0


@pytest.fixture
def given(monkeypatch):
    """How many weights each session was given, in their order."""
    given, model = [], module.GraphFile.model
    monkeypatch.setattr(module.GraphFile, "model", lambda s, o, names: given.append(len(names)) or model(s, o, names))
    return given


def test_to_be_packed_only_what_stays_is_given(folder, given):
    for precision, everything in [("fp32", 29), ("fp16", 28), ("int8", 40), ("int4", 40)]:
        Session.open(folder, threads=1, precision=precision)
        assert given.pop() < everything * 0.9
        assert not given
    Session.open(folder, threads=1, prepack=False)
    assert given == [29]


def test_where_mappings_cannot_be_seen_all_is_given(folder, given, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MAPS", tmp_path / "no such file")
    Session.open(folder, threads=1)
    (tmp_path / "maps").write_text("7f-80 r--p 00000000 00:00 0 [heap]\n")  # it is there, and shows nothing
    monkeypatch.setattr(module, "MAPS", tmp_path / "maps")
    Session.open(folder, threads=1)
    assert given == [29, 29]


def test_where_something_stays_mapped_all_is_given(damaged, given, mappings):
    kept = Session.open(damaged, threads=1, load="map")
    copied = Session.open(damaged, threads=1)
    assert given[0] == 0
    assert given[1] < given[2] == 29
    del kept
    assert mappings(damaged / "model.safetensors") == 0
    copied.step([[5]], copied.empty_cache())


def test_places_need_not_be_aligned(damaged, edit):
    """A header of any length: the bytes after it are copied as they lie."""
    expected = TextGenerator.open(damaged, threads=1).complete("The dog", max_new_tokens=9, sampling=GREEDY).token_ids
    path = damaged / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :])
    edit(damaged / "manifest.json", lambda m: m["files"][path.name].update(bytes=path.stat().st_size))
    graph = damaged / "model_serving.onnx"

    def moved(data):
        for number, entry in sorted(places(data).items(), reverse=True):
            data = data.replace(wire.field(2, str(number)), wire.field(2, str(entry)))
        return data

    before = len(graph.read_bytes())
    wire.rewrite(graph, moved)
    if len(graph.read_bytes()) != before:
        pytest.skip("a place has a digit more than before")
    for load in ("copy", "map"):
        generator = TextGenerator.open(damaged, threads=1, load=load)
        assert generator.complete("The dog", max_new_tokens=9, sampling=GREEDY).token_ids == expected


def places(data):
    from gpt2_runtime.graphs.onnx_file import OnnxFile

    tensors = OnnxFile.read("g", data).initializers.values()
    return {tensor.offset: tensor.offset + 1 for tensor in tensors if tensor.location}


def test_on_a_gpu_weights_are_read_once_and_the_file_may_change(damaged):
    bundle = Bundle.open(damaged)
    signs = partial(Signature.of, "portable", bundle.architecture)
    file = module.GraphFile.open(bundle, "fp32", "portable", signs, load="copy", tensors=PROVIDERS["cuda"].tensors)
    assert file.mapped
    assert file.attempts(True) == [frozenset()]
    (damaged / "model.safetensors").unlink()
    file.check_unchanged()
