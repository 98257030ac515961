import json
from time import sleep

import numpy as np
import pytest
from gpt2_runtime import Bundle
from gpt2_runtime.diagnostics import roofline
from gpt2_runtime.errors import BundleError


def test_bandwidth_is_bytes_by_seconds(monkeypatch):
    monkeypatch.setattr(np, "max", lambda part: sleep(0.05))
    array = np.ones(8000, np.uint8)
    assert 8000 / 0.3 < roofline.read_bandwidth(array, 4) <= 8000 / 0.05  # the threads wait side by side


def test_every_pass_reads_every_number_once(monkeypatch):
    parts = []
    monkeypatch.setattr(np, "max", parts.append)
    roofline.read_bandwidth(np.arange(250, dtype=np.uint8), 3)
    assert len(parts) == 3 * roofline.PASSES
    assert sorted(np.concatenate(parts[-3:])) == list(range(250))


def test_a_tied_head_is_read_and_the_positions_are_not(folder):
    every = roofline.weight_bytes(Bundle.open(folder))
    header = (folder / "model.safetensors").read_bytes()
    total = len(header) - 8 - int.from_bytes(header[:8], "little")
    assert every == total - 4 * 64 * 32


def test_an_embedding_beside_a_head_of_its_own_is_not_read(damaged, edit):
    bundle = Bundle.open(damaged)
    tied = roofline.weight_bytes(bundle)
    path = damaged / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["lm_head.weight"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert roofline.weight_bytes(bundle) == tied - 4 * 300 * 32 + 4


@pytest.mark.parametrize(
    "content", [b"", b"\x05\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b'\x07\0\0\0\0\0\0\0{"a":1}']
)
def test_a_damaged_file_of_weights_is_refused(damaged, content):
    bundle = Bundle.open(damaged)
    (damaged / "model.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="is not a whole safetensors file; copy or export the folder again"):
        roofline.weight_bytes(bundle)


def test_a_cache_is_read_in_proportion_to_context_and_batch(folder):
    bundle = Bundle.open(folder)
    assert roofline.cache_bytes(bundle, 10, 3) == 2 * 2 * 32 * 4 * 10 * 3
