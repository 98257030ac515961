"""Buffers on a device, tried where there is none: they lie on the CPU, but all goes by the device's road."""

import numpy as np
import pytest
from cache_uses import every_use
from gpt2_runtime import GREEDY, LookupConfig, Session, TextGenerator, beam_search
from gpt2_runtime.engine import buffers, serving_graph
from gpt2_runtime.engine.buffers import DeviceBuffers, HostBuffers, allocated, on_device
from gpt2_runtime.errors import ProviderError, SettingError
from gpt2_runtime.providers import cuda_memory
from gpt2_runtime.providers.providers import PROVIDERS


@pytest.fixture
def _on_a_device(monkeypatch, cuda_runtime):
    def allocated(shape, dtype, tensors):
        return DeviceBuffers(on_device(shape, dtype, tensors.device))

    monkeypatch.setattr(serving_graph, "allocated", allocated)


@pytest.fixture(params=["fp32", "fp16", "int8", "int4"])
def there(request, folder, _on_a_device):
    """A session whose caches take the device's road."""
    session = Session.open(folder, threads=1, precision=request.param)
    assert isinstance(session.empty_cache().buffers, DeviceBuffers)
    return session


def test_every_use_of_a_cache_is_what_it_is_on_the_host(there, folder, monkeypatch):
    found = every_use(there)
    monkeypatch.undo()
    host = Session.open(folder, threads=1, precision=there.precision)
    assert type(host.empty_cache().buffers) is HostBuffers
    for ours, expected in zip(found, every_use(host), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_texts_are_those_of_the_host(there, folder, monkeypatch):
    def texts(session):
        generator = TextGenerator(session=session, tokenizer=None)
        settings = {"max_new_tokens": 20, "stop_token_ids": ()}
        plain = generator.complete([5, 6, 7], sampling=GREEDY, **settings).token_ids
        guessed = generator.complete([5, 6, 7] * 4, sampling=GREEDY, lookup=LookupConfig(), **settings).token_ids
        beams = [beam.token_ids for beam in beam_search(session, [5, 6, 7], num_beams=3, **settings)]
        return plain, guessed, beams

    found = texts(there)
    monkeypatch.undo()
    assert found == texts(Session.open(folder, threads=1, precision=there.precision))


def test_a_row_begins_where_the_ones_before_it_end():
    array = np.zeros((2, 2, 3, 4, 5, 6), dtype=np.float16)
    expected = [array[layer, part, 1].ctypes.data for layer in range(2) for part in range(2)]
    assert HostBuffers(array).allocation.addresses(1) == expected


def test_memory_that_a_device_has_not_is_reported_in_one_line(monkeypatch):
    def full(*_):
        raise RuntimeError("Failed to allocate memory\nfor requested buffer")

    monkeypatch.setattr(buffers.load_onnxruntime().OrtValue, "ortvalue_from_shape_and_type", full)
    with pytest.raises(SettingError, match=r"^cache needs 1,440 bytes, cuda has less; lower its rows or capacity$"):
        allocated((2, 2, 3, 2, 5, 6), np.float16, PROVIDERS["cuda"].tensors)


def test_what_the_device_was_asked_to_copy_is_waited_for(there, cuda_runtime):
    _, cache = there.step([[5, 6, 7], [8]], there.empty_cache(2))
    assert cuda_runtime.started == 0
    uses = {
        "copy": cache.copy,
        "read": lambda: cache.snapshot(0, 2),
        "write": lambda: cache.copy().restore(1, cache.snapshot(0, 3)),
        "select": lambda: cache.copy().reorder([1, 0]),
        "select more": lambda: cache.reorder([1, 0, 1]),
    }
    for name, use in uses.items():
        use()
        assert cuda_runtime.started == 0, name


def test_a_device_that_fails_is_reported_in_one_line(there, cuda_runtime):
    _, cache = there.step([[5, 6, 7]], there.empty_cache())
    cuda_runtime.status = 2
    with pytest.raises(ProviderError, match=r"^provider cuda fails to copy its memory \(out of memory\); see nvidia"):
        cache.snapshot(0, 2)
    with pytest.raises(ProviderError, match=r"^provider cuda fails to clear its memory"):
        there.empty_cache()


def test_a_runtime_that_is_not_there_is_named():
    cuda_memory.runtime.cache_clear()
    with pytest.raises(ProviderError, match=r"^provider cuda cannot copy, .*cudart.* is not there; install CUDA"):
        cuda_memory.runtime()
