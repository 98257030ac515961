import pytest
from gpt2_runtime import Bundle, Session
from gpt2_runtime.errors import BundleError, GraphError
from gpt2_runtime.graphs.graph_signature import ELEMENTS


def test_a_folder_is_what_its_files_say(folder):
    bundle = Bundle.open(folder, check_hashes=True)
    sizes = bundle.architecture
    assert (sizes.vocab_size, sizes.n_positions, sizes.n_layer, sizes.n_head, sizes.head_dim) == (300, 64, 2, 4, 8)
    assert (bundle.bos_token_id, bundle.eos_token_ids) == (299, (299,))
    assert (bundle.source.name, bundle.source.revision) == ("tiny", None)
    assert bundle.graph("fp32", "portable") == folder / "model.onnx"
    assert bundle.path("vocab.json") == folder / "vocab.json"
    assert bundle.path("nothing") is None
    with pytest.raises(TypeError):
        bundle.files["x"] = None  # a checked bundle stays as it was checked


def test_what_is_no_exported_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="nowhere does not exist; name a folder made by"):
        Bundle.open(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="file is not a folder"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match=r"has no manifest\.json; make the folder with"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        Bundle.open("x" * 5000)


def replace(**fields):
    return lambda document: document.update(fields)


def facts(**fields):
    return lambda document: document["precisions"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace(schema=2), "has manifest schema 2, this version reads 1; upgrade gpt2-runtime"),
        (replace(schema=0), "has manifest schema 0, this version reads 1; export the folder again"),
        (replace(schema="1"), 'schema is "1", not an integer'),
        (replace(files=[]), r"files is \[\], not an object"),
        (replace(files={"../x": {"bytes": 1, "sha256": ""}}), r"names '\.\./x', which may leave the folder"),
        (replace(files={"a/../../x": {"bytes": 1, "sha256": ""}}), "may leave the folder"),
        (replace(files={"/etc/passwd": {"bytes": 1, "sha256": ""}}), "may leave the folder"),
        (replace(files={"C:x": {"bytes": 1, "sha256": ""}}), "may leave the folder"),
        (replace(files={"..\\x": {"bytes": 1, "sha256": ""}}), "may leave the folder"),
        (replace(files={"": {"bytes": 1, "sha256": ""}}), "may leave the folder"),
        (replace(files={"a\0": {"bytes": 1, "sha256": ""}}), "may leave the folder"),
        (replace(files={"a\ud800": {"bytes": 1, "sha256": ""}}), "half a surrogate pair"),
        (replace(files={"a\nb": {"bytes": 1, "sha256": ""}}), r"names 'a\\nb', which may leave the folder"),
        (lambda m: m["files"]["model.onnx"].update(bytes="1"), r'model\.onnx: bytes is "1", not an integer'),
        (lambda m: m["files"]["model.onnx"].update(bytes=True), r"model\.onnx: bytes is true, not an integer"),
        (lambda m: m["files"]["model.onnx"].update(bytes=14058.0), r"model\.onnx: bytes is 14058\.0, not an integer"),
        (
            lambda m: m["files"]["model.onnx"].update(bytes=-1),
            r"model\.onnx: bytes is -1, not an integer of at least 0",
        ),
        (lambda m: m["files"]["model.onnx"].update(bytes=10**40), r"bytes is 1000*, not an integer of at most 9223"),
        (lambda m: m["files"]["model.onnx"].update(sha256="5ac"), r'sha256 is "5ac", not 64 hexadecimal digits'),
        (lambda m: m["files"]["model.onnx"].update(sha256=7), "sha256 is 7, not text"),
        (lambda m: m["files"]["model.onnx"].update(bytes=1), r"model\.onnx has \d+ bytes, manifest\.json says 1"),
        (lambda m: m["files"].update({"extra.bin": {"bytes": 1, "sha256": ""}}), r"extra\.bin does not exist"),
        (lambda m: m["files"].pop("config.json"), r"files has no config\.json"),
        (replace(graphs={"fp32": {"portable": "other.onnx"}}), r"portable is 'other\.onnx', which is not among"),
        (replace(weights={"fp32": "../model.safetensors"}), r"fp32 is '\.\./model\.safetensors', which is not among"),
        (replace(weights={}), "weights has no fp32, but graphs has"),
        (replace(precisions={}), r"precisions is \{\}, not a list"),
        (replace(precisions=["fp32"]), r"precisions is \[.fp32.\], not a list of objects"),
        (facts(name="fp8"), 'precisions: name is "fp8", not one of weights, each once: fp32, fp16, int8, int4'),
        (facts(name="fp16"), 'precisions: name is "fp16", not one of weights, each once'),
        (facts(cache_type="float"), 'precisions: cache_type is "float", not float32 or float16'),
        (lambda m: m["precisions"].pop(), "precisions lacks int4, which weights has"),
        (
            lambda m: m["precisions"].reverse(),
            "precisions are int4, int8, fp16, fp32, not the most exact first: fp32, fp16, int8, int4; the folder",
        ),
        (lambda m: m["tokenizer"].update(merges_as_trained="yes"), 'merges_as_trained is "yes", not true or false'),
        (replace(tokenizer=[]), r"tokenizer is \[\], not an object"),
        (replace(source=None), "source is null, not an object"),
        (replace(source={"name": "x", "revision": 3}), "revision is 3, not text"),
        (replace(parity="good"), 'parity is "good", not an object'),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_name(damaged, edit, change, message):
    edit(damaged / "manifest.json", change)
    with pytest.raises(BundleError, match=message) as refusal:
        Bundle.open(damaged)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace(model_type="llama"), 'model_type is "llama", not "gpt2"'),
        (replace(n_layer=0), "n_layer is 0, not an integer of at least 1"),
        (replace(n_layer=10**400), r"n_layer is 1000*\.\.\., not an integer of at most 2147483647"),
        (replace(vocab_size=2**31), "vocab_size is 2147483648, not an integer of at most 2147483647"),
        (replace(n_positions=64.0), r"n_positions is 64\.0, not an integer"),
        (replace(bos_token_id=2**70), "bos_token_id is"),
        (replace(n_head=5), "n_embd is 32, not a multiple of n_head, which is 5"),
        (lambda c: c.pop("vocab_size"), "vocab_size is absent"),
        (replace(bos_token_id="x"), 'bos_token_id is "x", not an integer'),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_name(damaged, edit, change, message):
    edit(damaged / "config.json", change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(damaged)


def test_a_name_that_is_not_utf8_is_refused(folder):
    with pytest.raises(BundleError, match=r"tiny.udcff', which is not UTF-8 and cannot"):
        Bundle.open(f"{folder}\udcff")


def test_a_missing_file_is_refused_by_name(damaged):
    (damaged / "vocab.json").unlink()
    with pytest.raises(BundleError, match=r"vocab\.json does not exist, but manifest\.json lists it"):
        Bundle.open(damaged)


def test_a_changed_byte_is_found_on_request(damaged):
    path = damaged / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    Bundle.open(damaged)
    with pytest.raises(
        BundleError, match=r"model\.safetensors has sha256 \w{12}\.\.\., manifest\.json says dfeed1675f3f"
    ):
        Bundle.open(damaged, check_hashes=True)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (7, {}, (7,)),
        (7, {"eos_token_id": [8, 9]}, (8, 9)),
        (7, {"eos_token_id": None}, ()),
        (None, {}, ()),
        ([1, 2], {}, (1, 2)),
    ],
)
def test_stop_tokens_are_the_configs_unless_generation_config_says_otherwise(
    damaged, edit, config, generation, expected
):
    edit(damaged / "config.json", replace(eos_token_id=config))
    edit(damaged / "generation_config.json", lambda g: (g.clear(), g.update(generation)))
    assert Bundle.open(damaged).eos_token_ids == expected


@pytest.mark.parametrize("eos", ["x", [1, "x"], [True], [2**70], 2**70, -1, 1.5])
def test_a_stop_token_that_is_no_id_is_refused(damaged, edit, eos):
    edit(damaged / "generation_config.json", replace(eos_token_id=eos))
    with pytest.raises(BundleError, match="eos_token_id is"):
        Bundle.open(damaged)


def test_a_graph_that_the_folder_lacks_is_refused_with_those_it_has(folder):
    with pytest.raises(
        BundleError, match="has no int3 portable graph, only fp32 portable, fp32 serving, fp32 explaining, fp16"
    ):
        Bundle.open(folder).graph("int3", "portable")


CACHE_TYPES = {"fp32": "float32", "fp16": "float16", "int8": "float32", "int4": "float32"}


def test_a_folder_of_before_opens_with_what_it_does_not_say(damaged, edit):
    said = Bundle.open(damaged)
    edit(damaged / "manifest.json", lambda m: (m.pop("precisions"), m.pop("tokenizer")))
    unsaid = Bundle.open(damaged)
    for bundle in (said, unsaid):
        assert list(bundle.cache_types.items()) == list(CACHE_TYPES.items())
        assert bundle.precision(None) == "fp32"
    assert said.trained_sha256 == said.files["tokenizer.json"].sha256
    assert unsaid.trained_sha256 is None


def test_what_is_to_be_checked_is_not_taken_from_the_manifest(folder):
    assert Bundle.open(folder, check_hashes=True).trained_sha256 is None


def test_merges_that_are_not_said_to_be_as_trained_are_proven(damaged, edit):
    for change in (
        lambda m: m["tokenizer"].update(merges_as_trained=False),
        lambda m: m["files"].pop("tokenizer.json"),
    ):
        edit(damaged / "manifest.json", change)
        assert Bundle.open(damaged).trained_sha256 is None


@pytest.mark.parametrize(("precision", "wrong"), [("fp16", "float32"), ("int8", "float16")])
def test_a_wrong_type_of_cache_is_refused_by_the_graph(damaged, edit, precision, wrong):
    def change(document):
        (entry,) = (each for each in document["precisions"] if each["name"] == precision)
        entry["cache_type"] = wrong

    edit(damaged / "manifest.json", change)
    with pytest.raises(
        GraphError, match=rf"input past_key_values\.0\.key is tensor.* requires tensor\({ELEMENTS[wrong]}\)"
    ):
        Session.open(damaged, precision=precision, graph="serving", threads=1)
