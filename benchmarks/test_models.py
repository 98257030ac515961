"""Models are made once and kept, and made again when stale."""

import json
import struct
from dataclasses import replace

import environments
import pytest
from devices import CPU, CUDA
from environments import environment_key, prepare
from models import Models, bytes_a_token, megabytes, our_megabytes, our_precisions
from peers import read_peers
from processes import PeerError


def write_tensors(folder, sizes):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_a_tied_head_is_read_whole_and_positions_are_not(tmp_path):
    write_tensors(tmp_path, {"transformer.wte.weight": 400, "transformer.wpe.weight": 80, "transformer.ln_f.bias": 8})
    assert bytes_a_token(tmp_path / "model.safetensors") == 408


def test_a_head_of_its_own_is_read_instead(tmp_path):
    write_tensors(tmp_path, {"wte.weight": 400, "wpe.weight": 80, "lm_head.weight": 400, "ln_f.bias": 8})
    assert bytes_a_token(tmp_path / "model.safetensors") == 408


def test_ours_has_the_precisions_of_its_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text('{"graphs": {"int8": {}, "fp32": {}}}')
    assert our_precisions(tmp_path, CPU.precisions) == ["fp32", "int8"]
    assert our_precisions(tmp_path, CUDA.precisions) == []


def test_a_precision_of_ours_is_as_large_as_the_files_it_reads(tmp_path):
    (tmp_path / "manifest.json").write_text(
        '{"weights": {"int8": "w"}, "graphs": {"int8": {"serving": "g", "portable": "p"}}}'
    )
    for name, size in (("w", 3_000_000), ("g", 500_000), ("p", 7)):
        (tmp_path / name).write_bytes(bytes(size))
    assert our_megabytes(tmp_path, "int8") == 3.5


def test_a_model_is_made_again_only_from_another_checkpoint(tmp_path):
    made = []

    def make(target):
        made.append(target)
        target.write_text("model")

    models = Models(tmp_path, tmp_path, CPU)
    for key in ("a", "a", "b", "b"):
        models._kept("model", {"from": key}, make)
    assert len(made) == 2
    models._kept("checkpoint", {"code": "changed"}, make)
    models._kept("model", {"from": "b"}, make)
    assert len(made) == 4


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    def make(target):
        target.write_text("half")
        raise PeerError("no")

    with pytest.raises(PeerError, match="no"):
        Models(tmp_path, tmp_path, CPU)._kept("model", {}, make)
    assert not list(tmp_path.iterdir())


def test_a_linked_model_is_measured_at_its_target(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "weights").write_bytes(bytes(2_000_000))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert megabytes(tmp_path / "link") == 2


def test_an_environment_is_kept_while_its_requirements_stay(tmp_path, monkeypatch):
    commands = []

    def fake_run(command, *, log, env=None):
        commands.append(command)
        assert "install" not in command or "PIP_CONSTRAINT" not in env  # only peers.toml pins the peers
        (tmp_path / "env").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "run", fake_run)
    monkeypatch.setenv("PIP_CONSTRAINT", "constraints.txt")
    peer = read_peers()["ctranslate2"]
    for each in (peer, peer, replace(peer, requirements=("ctranslate2==1",))):
        prepare(each, tmp_path / "env", tmp_path / "log")
    assert len(commands) == 4  # a venv and an installation, twice
    assert set(environment_key(read_peers()["ours"]).values()) != set(environment_key(peer).values())
