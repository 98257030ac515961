"""The session against GPT-2's equations in numpy: however a text is cut into steps, its logits are the same."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import Bundle, Session
from gpt2_runtime.engine.session import choose_graph
from gpt2_runtime.errors import BundleError, ContextFullError, ProviderError, SettingError, TokenIdError
from gpt2_runtime.providers.providers import PROVIDERS, load_onnxruntime

TOLERANCE = 1e-4  # float32 rounding is 6e-6 here; the smallest classic mistake, a GELU by erf, is 1.3e-3


@pytest.fixture(scope="module")
def ids(session):
    return np.random.default_rng(0).integers(0, 300, size=session.bundle.architecture.n_positions)


def stepped(session, ids, cuts):
    """Logits [T, V] of ids [T] read in steps that end at `cuts`."""
    cache, logits = session.empty_cache(), []
    for start, end in itertools.pairwise([0, *cuts, len(ids)]):
        step, cache = session.step(ids[None, start:end], cache, logits_to_keep=end - start)
        assert cache.lengths == (end,)
        logits.append(step[0])
    return np.concatenate(logits)


@pytest.mark.parametrize(
    "cuts", [[], [1], [63], [7, 8, 38, 40], range(1, 64)], ids=["whole", "1+63", "63+1", "ragged", "one by one"]
)
def test_logits_are_gpt2s_however_the_text_is_cut(either, oracle, ids, cuts):
    np.testing.assert_allclose(stepped(either, ids, cuts), oracle(ids), atol=TOLERANCE)


def test_rows_of_a_batch_are_the_rows_alone(either, oracle, ids):
    rows = ids[:60].reshape(3, 20)
    first, cache = either.step(rows[:, :13], either.empty_cache(3), logits_to_keep=13)
    second, cache = either.step(rows[:, 13:], cache, logits_to_keep=7)
    assert cache.lengths == (20, 20, 20)
    found = np.concatenate([first, second], axis=1)
    np.testing.assert_allclose(found, [oracle(row) for row in rows], atol=TOLERANCE)


@pytest.mark.parametrize("keep", [1, 2, 19, 20])
def test_the_last_logits_are_kept(either, oracle, ids, keep):
    logits, _ = either.step(ids[None, :20], either.empty_cache(), keep)
    np.testing.assert_allclose(logits[0], oracle(ids[:20])[-keep:], atol=TOLERANCE)
    assert logits.dtype == np.float32


def test_logits_are_the_callers_to_keep(either, ids):
    cache, kept, copied = either.empty_cache(), [], []
    for token in ids[:5]:
        logits, cache = either.step([[token]], cache)
        kept.append(logits)
        copied.append(logits.copy())
    np.testing.assert_array_equal(kept, copied)
    logits[...] = 0  # they may be written to as well


def test_ids_may_be_lists_and_arrays_of_any_integers(either, oracle):
    for row in ([1, 2], (1, 2), np.array([1, 2], dtype=np.uint16)):
        logits, _ = either.step([row], either.empty_cache(), logits_to_keep=2)
        np.testing.assert_allclose(logits[0], oracle([1, 2]), atol=TOLERANCE)


def test_a_step_past_the_last_position_names_both_numbers(either, ids):
    _, cache = either.step(ids[None], either.empty_cache())
    with pytest.raises(ContextFullError, match="row 0 needs 65 positions, the cache has 64, the model 64; roll the"):
        either.step([[1]], cache)
    with pytest.raises(ContextFullError, match="row 1 needs 9 positions, the cache has 8, the model 64"):
        either.step([[1] * 8, [1] * 9], either.empty_cache(2, capacity=8))


@pytest.mark.parametrize(("token", "shown"), [(300, "300"), (-1, "-1"), (2**40, "1099511627776")])
def test_an_id_outside_the_vocabulary_is_refused(either, token, shown):
    with pytest.raises(TokenIdError, match=f"token id is {shown}, must be from 0 to 299"):
        either.step([[5, token]], either.empty_cache())


@pytest.mark.parametrize("ids", [[5, 6], [[0.5]], [["a"]], [[2**70]], [[True]], [[[5]]], [[[5], 6]], "text", 5])
def test_ids_of_another_shape_or_type_are_refused(either, ids):
    with pytest.raises(SettingError, match=r"must be (rows of )?integers"):
        either.step(ids, either.empty_cache())


@pytest.mark.parametrize("ids", [[], [[]], [[], []], np.zeros((2, 0), dtype=int)])
def test_a_step_that_reads_nothing_is_refused(either, ids):
    with pytest.raises(SettingError, match=r"ids are \d rows without tokens, must have at least one"):
        either.step(ids, either.empty_cache())


@pytest.mark.parametrize("keep", [0, 4, -1, 1.0, True, None])
def test_a_number_of_logits_out_of_range_is_refused(either, keep):
    with pytest.raises(SettingError, match=r"logits_to_keep is .*, must be an integer from 1 to 3"):
        either.step([[5, 6, 7]], either.empty_cache(), keep)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("batch_size", 0, "from 1 to 1024"), ("batch_size", 10**9, "from 1 to 1024"), ("capacity", 65, "from 1 to 64")],
)
def test_a_cache_of_impossible_size_is_refused(either, name, value, limit):
    with pytest.raises(SettingError, match=f"{name} is {value}, must be an integer {limit}"):
        either.empty_cache(**{name: value})


def test_a_cache_of_other_rows_or_another_session_is_refused(either, folder):
    with pytest.raises(SettingError, match="cache has 2 rows, the step 1; leave idle rows empty"):
        either.step([[5]], either.empty_cache(2))
    with pytest.raises(SettingError, match="cache belongs to another session; start from empty_cache of this one"):
        either.step([[5]], Session.open(folder, threads=1).empty_cache())


def test_what_is_refused_leaves_the_cache_usable(either):
    _, cache = either.step([[5]], either.empty_cache())
    with pytest.raises(TokenIdError):
        either.step([[300]], cache)
    either.step([[6]], cache)


def test_threads_and_provider_are_set_as_asked(folder):
    session = Session.open(Bundle.open(folder), provider="cpu", threads=2)
    inference = session.opened.inference
    options = inference.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads, options.enable_mem_pattern) == (2, 1, False)
    assert inference.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(SettingError, match="threads is 0"):
        Session.open(folder, threads=0)
    with pytest.raises(ProviderError, match="provider is 'tpu'"):
        Session.open(folder, provider="tpu")


@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_residuals_and_norms_are_run_apart(folder, graph, tmp_path, monkeypatch):
    """SkipLayerNormalization is the slower way. Should onnxruntime fuse by itself, that optimizer must be disabled."""
    onnxruntime = load_onnxruntime()
    plain = onnxruntime.SessionOptions

    def profiled():
        options = plain()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", profiled)
    session = Session.open(folder, threads=1, graph=graph)
    session.step([[5]], session.empty_cache())
    events = json.loads(Path(session.opened.inference.end_profiling()).read_text(encoding="utf-8"))
    operators = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    assert operators.count("LayerNormalization") == 5  # two in each of two layers, and the last
    assert "SkipLayerNormalization" not in operators


def test_the_serving_graph_is_taken_where_folder_and_provider_have_it(session, damaged, edit):
    bundle = session.bundle
    assert session.graph == "serving"
    assert choose_graph(bundle, "fp32", PROVIDERS["cuda"], None) == "portable"
    with pytest.raises(
        SettingError, match="graph is 'serving', which has no fp32 kernel on cuda; pass graph='portable'"
    ):
        choose_graph(bundle, "fp32", PROVIDERS["cuda"], "serving")
    assert [choose_graph(bundle, "fp16", PROVIDERS["cuda"], kind) for kind in (None, "serving")] == ["serving"] * 2
    with pytest.raises(SettingError, match="graph is 'fast', must be 'serving' or 'portable'"):
        Session.open(bundle, graph="fast")
    edit(damaged / "manifest.json", lambda m: m["graphs"]["fp32"].pop("serving"))
    assert Session.open(damaged, threads=1).graph == "portable"
    with pytest.raises(BundleError, match="has no fp32 serving graph, only fp32 portable, "):
        Session.open(damaged, graph="serving")
    odd = replace(bundle, architecture=replace(bundle.architecture, n_head=8))
    with pytest.raises(
        BundleError, match="its heads are 4 wide, the serving graph needs a multiple of 8; pass graph='portable'"
    ):
        choose_graph(odd, "fp32", PROVIDERS["cpu"], "serving")


@pytest.mark.parametrize("graph", ["serving", "portable"])
@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_a_truncated_file_is_refused(damaged, edit, graph, name):
    name = {"serving": "model_serving.onnx", "portable": "model.onnx"}[graph] if name == "model" else name
    path = damaged / name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BundleError, match=r"has \d+ bytes, manifest\.json says \d+"):
        Session.open(damaged, graph=graph)
    # If the manifest repeats the lie, the file shows it.
    edit(damaged / "manifest.json", lambda m: m["files"][name].update(bytes=path.stat().st_size))
    complaint = (
        "two offsets within the" if name == "model.safetensors" else "is not a graph written by gpt2-export: it ends in"
    )
    with pytest.raises(BundleError, match=complaint) as refusal:
        Session.open(damaged, graph=graph)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("keep", [[1, 3], [0, 2], [0, 0]])
def test_each_row_may_have_its_own_number_of_logits(either, keep):
    ids = [[5, 6, 7], [8, 9, 10]]
    whole, _ = either.step(ids, either.empty_cache(2), 3)
    found, cache = either.step_top_k(ids, either.empty_cache(2), [None, None], keep)
    assert cache.lengths == (3, 3)
    assert [len(row) for row in found] == keep
    for row, count in enumerate(keep):
        for place, logits in enumerate(found[row], 3 - count):
            np.testing.assert_allclose(logits, whole[row, place], atol=1e-5)


@pytest.mark.parametrize(
    ("keep", "complaint"),
    [
        ([1], "logits_to_keep are 1, the step has 2 rows; pass one for each"),
        ([1, 2], "logits_to_keep is 2, must be an integer from 0 to 1, the tokens that row 1 reads"),
        ([1, -1], "logits_to_keep is -1, must be"),
        ([True, 1], "logits_to_keep is True, must be"),
        ("11", "logits_to_keep is '11', must be an integer from 1 to 3"),
        (None, "logits_to_keep is None, must be an integer from 1 to 3"),
    ],
)
def test_numbers_of_logits_of_rows_out_of_range_are_refused(serving, keep, complaint):
    with pytest.raises(SettingError, match=complaint):
        serving.step_top_k([[5, 6, 7], [8]], serving.empty_cache(2), [1, 1], keep)
