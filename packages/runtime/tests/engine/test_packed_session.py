"""The graph over its weights as they lie, then packed: the same numbers, one switch, and never both in memory."""

import gc
import os
import threading
import weakref

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Session, TextGenerator, generate
from gpt2_runtime.engine import packed_session as module
from gpt2_runtime.engine import session as sessions
from gpt2_runtime.engine.buffers import HostBuffers, untouched
from gpt2_runtime.engine.packed_session import BINDINGS, UNPACKED_TOKENS, PackedSession
from gpt2_runtime.errors import GraphError, SettingError


class Inference:
    """Stands for onnxruntime's session, and knows in which form its weights are."""

    def __init__(self, packed):
        self.packed = packed


class Binding:
    """Stands for a bound shape; it holds what a real one holds."""

    def __init__(self, inference, allocation, *, first, rows, tokens, logits, capture):
        self.inference, self.memory, self.shape = inference, allocation.owner, (first, rows, tokens, logits)
        self.capture = capture


@pytest.fixture
def _plain(monkeypatch):
    monkeypatch.setattr(module, "Binding", Binding)


def memory():
    return HostBuffers(untouched((1, 2, 3, 1, 4, 8))).allocation


def unpacked(*files):
    return PackedSession(Inference, files, packed=False)


def test_packed_at_once_is_never_opened_again():
    opened = []
    engine = PackedSession(lambda packed: opened.append(packed) or Inference(packed), [], packed=True)
    for _ in range(100):
        engine.expect(100)
    assert opened == [True]


@pytest.mark.parametrize("first", [1, 1000])
@pytest.mark.parametrize("steps", [[1] * UNPACKED_TOKENS, [UNPACKED_TOKENS], [UNPACKED_TOKENS - 1, 1]])
def test_the_first_step_and_a_few_tokens_are_read_unpacked(first, steps):
    engine = unpacked()
    for tokens in [first, *steps]:
        engine.expect(tokens)
        assert not engine.inference.packed
    engine.expect(1)
    assert engine.packed
    assert engine.inference.packed


def test_a_second_prompt_packs_before_it_is_read():
    engine = unpacked()
    engine.expect(5)
    engine.expect(UNPACKED_TOKENS + 1)
    assert engine.packed


@pytest.mark.usefixtures("_plain")
def test_what_is_unpacked_is_let_go_before_what_is_packed_is_opened():
    """Its bindings too, and those of a cache that takes no part: all of them would keep the mapped file."""
    held, stepped, idle = [], memory(), memory()

    def open_graph(packed):
        alive = [ref for ref in held if ref() is not None]
        assert not alive, "two sessions at once"
        inference = Inference(packed)
        held.append(weakref.ref(inference))
        return inference

    engine = PackedSession(open_graph, [], packed=False)
    for each in (stepped, idle):
        assert not engine.binding(each, 0, 1, 5, 1).inference.packed
    gc.disable()  # nothing may hang on when it comes
    try:
        engine.expect(5)
        engine.expect(UNPACKED_TOKENS + 1)
    finally:
        gc.enable()
    assert engine.binding(stepped, 0, 1, 5, 1).inference.packed
    assert len(held) == 2


@pytest.mark.usefixtures("_plain")
def test_a_shape_is_bound_once_and_few_are_kept(monkeypatch):
    made = []

    def counted(*arguments, **shape):
        made.append(shape)
        return Binding(*arguments, **shape)

    monkeypatch.setattr(module, "Binding", counted)
    engine, mine, other = unpacked(), memory(), memory()
    assert engine.binding(mine, 1, 2, 5, 1) is engine.binding(mine, 1, 2, 5, 1)
    assert engine.binding(mine, 1, 2, 5, 1).shape == (1, 2, 5, 1)
    assert engine.binding(other, 1, 2, 5, 1) is not engine.binding(mine, 1, 2, 5, 1)
    assert len(made) == 2
    for tokens in range(BINDINGS):  # the least recently used goes
        engine.binding(mine, 0, 1, tokens, 1)
    engine.binding(mine, 1, 2, 5, 1)
    assert len(made) == 2 + BINDINGS + 1


@pytest.mark.usefixtures("_plain")
def test_the_bindings_of_a_cache_go_with_it():
    engine, mine = unpacked(), memory()
    bound = weakref.ref(engine.binding(mine, 0, 1, 1, 1))
    gc.disable()
    try:
        del mine
        assert bound() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("change", ["another file", "written to", "gone"])
def test_a_folder_that_has_changed_is_not_packed(tmp_path, change):
    """The keys and values so far are of the weights that were."""
    file = tmp_path / "weights"
    file.write_bytes(b"1234")
    engine = unpacked(file)
    engine.expect(5)
    if change == "another file":
        (tmp_path / "new").write_bytes(b"5678")
        os.utime(tmp_path / "new", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        (tmp_path / "new").replace(file)
    elif change == "written to":
        file.write_bytes(b"123456")
    else:
        file.unlink()
    for _ in range(2):  # and so it stays
        with pytest.raises(GraphError, match="weights has changed since the folder was opened; open it again"):
            engine.expect(UNPACKED_TOKENS + 1)
    with pytest.raises(GraphError, match="has changed"):
        engine.expect(1)  # although so few were still to be read unpacked


def test_a_graph_that_cannot_be_packed_is_tried_again():
    failing = iter([False, True, False])

    def open_graph(packed):
        if next(failing):
            raise GraphError("no memory")
        return Inference(packed)

    engine = PackedSession(open_graph, [], packed=False)
    engine.expect(1)
    with pytest.raises(GraphError, match="no memory"):
        engine.expect(UNPACKED_TOKENS + 1)
    with pytest.raises(GraphError, match="could not be opened again"):
        _ = engine.inference
    engine.expect(1)
    assert engine.inference.packed


def test_the_switch_changes_no_text_and_no_logits(folder, oracle):
    session = Session.open(folder, threads=1, prepack=False)
    assert not session.opened.engine.packed
    ids = np.random.default_rng(0).integers(0, 300, size=(2, 40))
    cache, read = session.empty_cache(2), 0
    for tokens in (9, 1, 1, 6, 1, 2, 20):
        logits, cache = session.step(ids[:, read : read + tokens], cache, tokens)
        expected = [oracle(row[: read + tokens])[-tokens:] for row in ids]
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        read += tokens
    assert session.opened.engine.packed


def test_prepack_is_for_the_weights_alone(folder, monkeypatch):
    """The unpacked session asks onnxruntime not to pack; the packed one does not."""
    asked = []
    opened = sessions.open_inference
    monkeypatch.setattr(sessions, "open_inference", lambda *given: asked.append(given[-1]) or opened(*given))
    for prepack in (True, False):
        session = Session.open(folder, threads=1, prepack=prepack)
        entries = session.opened.inference.get_session_options()
        entry = "session.disable_prepacking"
        if prepack:
            with pytest.raises(RuntimeError, match=entry):
                entries.get_session_config_entry(entry)
        else:
            assert entries.get_session_config_entry(entry) == "1"
    assert asked == [True, False]


def test_texts_are_the_same_packed_or_not(folder):
    ready, quick = (TextGenerator.open(folder, threads=1, prepack=prepack) for prepack in (True, False))
    for seed in range(3):
        settings = {"max_new_tokens": 40, "seed": seed, "stop_token_ids": ()}
        assert quick.complete("The dog", **settings).token_ids == ready.complete("The dog", **settings).token_ids


def test_threads_may_share_a_session_while_it_packs(folder):
    session = Session.open(folder, threads=1, prepack=False)
    alone = Session.open(folder, threads=1)
    prompts = [[seed + 1, 2 * seed + 3, 7] for seed in range(4)]

    def text(session, prompt):
        return [event for event in generate(session, prompt, max_new_tokens=30, sampling=GREEDY, stop_token_ids=())]

    found = {}
    workers = [
        threading.Thread(target=lambda n=n, p=p: found.update({n: text(session, p)})) for n, p in enumerate(prompts)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, prompt in enumerate(prompts):
        ids = [event.id for event in found[number][:-1]]
        assert ids == [event.id for event in text(alone, prompt)[:-1]]


@pytest.mark.usefixtures("_plain")
def test_steps_of_all_rows_by_one_token_are_captured_each_under_its_own_number():
    engine = PackedSession(Inference, [], packed=True, captures=True)
    mine, other = memory(), memory()
    assert [engine.binding(each, 0, 3, 1, 3).capture for each in (mine, other, mine)] == [0, 1, 0]
    for shape in [(0, 3, 2, 3), (0, 2, 1, 2), (1, 2, 1, 2), (0, 3, 1, 2)]:
        assert engine.binding(mine, *shape).capture == -1


@pytest.mark.usefixtures("_plain")
def test_a_limited_number_is_captured(monkeypatch):
    monkeypatch.setattr(module, "MOST_CAPTURED", 2)
    engine = PackedSession(Inference, [], packed=True, captures=True)
    held = [memory() for _ in range(4)]
    assert [engine.binding(each, 0, 3, 1, 3).capture for each in held] == [0, 1, -1, -1]


@pytest.mark.usefixtures("_plain")
def test_where_nothing_is_captured_threads_need_not_take_turns():
    engine = unpacked()
    assert engine.binding(memory(), 0, 3, 1, 3).capture is None
    with engine.turn, engine.turn:
        pass


@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_on_the_cpu_there_is_nothing_to_capture(folder, graph):
    complaint = (
        rf"^cuda_graph is on, but it is only for the serving graph on cuda, not the {graph} one on cpu; leave it off$"
    )
    with pytest.raises(SettingError, match=complaint):
        Session.open(folder, graph=graph, cuda_graph=True)
