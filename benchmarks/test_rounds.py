"""A whole run with a fake runtime: the order, the reference ids, and a peer that fails."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import rounds
from devices import CPU
from peers import OURS, Variant
from processes import PeerError
from rounds import Bench, Program
from works import Work

FP32, INT8 = (Variant(peer=OURS, precision=precision) for precision in ("fp32", "int8"))
PROGRAM = Program(python=Path(sys.executable), adapter="counting", model=Path("model"))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    pytest.importorskip("numpy")
    monkeypatch.setattr(rounds, "SETTLE_SECONDS", 0)
    device = replace(CPU, works={name: Work(rows=2, prompt=3, new=4) for name in ("decode", "start")})
    programs = {FP32: PROGRAM, INT8: PROGRAM}
    return Bench(
        device=device, programs=programs, threads=1, vocabulary=50, logs=tmp_path, failures={}, report=lambda line: None
    )


def test_every_work_is_measured_in_every_round(bench):
    records = list(bench.measure(["decode", "start"], 2))
    taken = [(record.round, record.figure) for record in records]
    one = ["bandwidth", "decode", "bandwidth", "start", "whole", "memory"]
    assert taken == [(0, figure) for figure in one] + [(1, figure) for figure in one] + [(1, "memory_highest")]
    assert {(record.equal, record.total) for record in records if record.figure == "decode"} == {(8, 8)}
    assert all(record.value > 0 for record in records)


def test_a_peer_that_fails_is_recorded_and_left_out(bench):
    records = list(bench.measure(["decode"], 1))
    assert bench.failures == {"ours int8": "load: ValueError: int8 is not known"}
    assert {record.precision for record in records if record.figure == "decode"} == {"fp32"}


def test_without_ours_there_is_no_run(bench):
    bench.programs = {FP32: replace(PROGRAM, python=Path("/bin/false"))}
    with pytest.raises(PeerError):
        list(bench.measure(["decode"], 1))


def test_an_ended_run_leaves_no_process(bench):
    records = bench.measure(["decode"], 1)
    next(records)
    adapters = list(bench.living.values())
    records.close()
    assert adapters
    assert all(adapter.process.poll() is not None for adapter in adapters)
