"""The session against GPT-2's equations in numpy: however a text is cut into steps, its logits are the same."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from gpt2_runtime import Bundle, Session
from gpt2_runtime.errors import BundleError, ContextFullError, GraphError, ProviderError, SettingError, TokenIdError

TOLERANCE = 1e-4  # float32 rounding is 6e-6 here; the smallest classic mistake, a GELU by erf, is 1.3e-3


@pytest.fixture(scope="module")
def ids(session):
    return np.random.default_rng(0).integers(0, 300, size=session.bundle.architecture.n_positions)


def stepped(session, ids, cuts):
    """Logits [T, V] of ids [T] read in steps that end at `cuts`."""
    cache, logits = session.empty_cache(), []
    for start, end in itertools.pairwise([0, *cuts, len(ids)]):
        step, cache = session.step(ids[None, start:end], cache)
        assert cache.length == end
        logits.append(step[0])
    return np.concatenate(logits)


@pytest.mark.parametrize(
    "cuts", [[], [1], [63], [7, 8, 38, 40], range(1, 64)], ids=["whole", "1+63", "63+1", "ragged", "one by one"]
)
def test_logits_are_gpt2s_however_the_text_is_cut(session, oracle, ids, cuts):
    np.testing.assert_allclose(stepped(session, ids, cuts), oracle(ids), atol=TOLERANCE)


def test_rows_of_a_batch_are_the_rows_alone(session, oracle, ids):
    rows = ids[:60].reshape(3, 20)
    first, cache = session.step(rows[:, :13], session.empty_cache(3))
    second, cache = session.step(rows[:, 13:], cache)
    assert (cache.batch_size, cache.length) == (3, 20)
    found = np.concatenate([first, second], axis=1)
    np.testing.assert_allclose(found, [oracle(row) for row in rows], atol=TOLERANCE)


def test_a_cache_stays_what_it_is(session, oracle, ids):
    _, cache = session.step(ids[None, :10], session.empty_cache())
    branches = [session.step(np.array([[token]]), cache)[0][0, -1] for token in (5, 6, 5)]
    np.testing.assert_array_equal(branches[0], branches[2])
    np.testing.assert_allclose(branches[1], oracle([*ids[:10], 6])[-1], atol=TOLERANCE)


def test_ids_may_be_lists(session, oracle):
    logits, _ = session.step([[1, 2]], session.empty_cache())
    np.testing.assert_allclose(logits[0], oracle([1, 2]), atol=TOLERANCE)
    assert logits.dtype == np.float32


def test_a_step_past_the_last_position_names_both_numbers(session, ids):
    _, cache = session.step(ids[None], session.empty_cache())
    with pytest.raises(ContextFullError, match="step needs 65 positions, the model has 64"):
        session.step([[1]], cache)


@pytest.mark.parametrize(("token", "shown"), [(300, "300"), (-1, "-1"), (2**40, "1099511627776")])
def test_an_id_outside_the_vocabulary_is_refused(session, token, shown):
    with pytest.raises(TokenIdError, match=f"token id is {shown}, must be from 0 to 299"):
        session.step([[5, token]], session.empty_cache())


@pytest.mark.parametrize("ids", [[5, 6], [[]], [[0.5]], [["a"]], [[2**70]], [[True]]])
def test_ids_of_another_shape_or_type_are_refused(session, ids):
    with pytest.raises(SettingError, match="must be integers of shape"):
        session.step(ids, session.empty_cache())


def test_a_cache_of_other_rows_or_another_model_is_refused(session):
    with pytest.raises(SettingError, match="cache has 2 rows and 2 layers, the step 1 and 2"):
        session.step([[5]], session.empty_cache(2))
    cache = session.empty_cache()
    with pytest.raises(SettingError, match="1 layers"):
        session.step([[5]], replace(cache, layers=cache.layers[:1]))


def test_threads_and_provider_are_set_as_asked(folder):
    session = Session.open(Bundle.open(folder), provider="cpu", threads=2)
    options = session.inference.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads, options.enable_mem_pattern) == (2, 1, False)
    assert session.inference.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(SettingError, match="threads is 0"):
        Session.open(folder, threads=0)
    with pytest.raises(ProviderError, match="provider is 'tpu'"):
        Session.open(folder, provider="tpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(n_layer=3), r"missing past_key_values\.2\.key, past_key_values\.2\.value; unexpected none"),
        (lambda c: c.update(n_layer=1), r"missing none; unexpected past_key_values\.1\.key"),
        (lambda c: c.update(n_head=2), r"past_key_values\.0\.key is tensor\(float\) .*, config\.json wants .* 2, "),
        (lambda c: c.update(vocab_size=301), r"output logits is .* 300\], config\.json wants .* 301\]"),
    ],
)
def test_a_graph_of_another_model_is_refused_by_name(damaged, edit, change, message):
    edit(damaged / "config.json", change)
    with pytest.raises(GraphError, match=message):
        Session.open(damaged)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_truncated_file_is_refused(damaged, edit, name):
    path = damaged / name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BundleError, match=r"has \d+ bytes, manifest\.json says \d+"):
        Session.open(damaged)
    # And should the manifest tell the same lie, onnxruntime finds it.
    edit(damaged / "manifest.json", lambda m: m["files"][name].update(bytes=path.stat().st_size))
    with pytest.raises(GraphError, match="cannot be opened, check the folder with --check-hashes") as refusal:
        Session.open(damaged)
    assert "\n" not in str(refusal.value)
