"""The GPU benchmark, as far as it runs without a GPU."""

import ctypes
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import run as command
from chart import chart
from devices import CPU, CUDA
from gpu import NoGpuError, find_gpu
from machine import Machine
from peers import Variant, read_peers
from ratios import bandwidth, roofline, step_bytes
from records import Record, Run, read_run, write_run
from rounds import Bench, Program
from table import table
from works import CUDA_WORKS, FIGURES, Work

PEERS = read_peers(CUDA.peers)
OURS, GRAPH = (Variant(peer=name, precision="fp16") for name in ("ours", "ours_graph"))
RESULTS = CPU.results
GPU = "NVIDIA L4, 23034 MiB, driver 580.65.06, CUDA 13.0"


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a script with that text in place of nvidia-smi."""

    def make(text):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return {"PATH": str(program.parent)}

    return make


def test_the_gpu_is_described_by_nvidia_smi(smi):
    result = smi(
        'case "$*" in *query*) echo "NVIDIA L4, 23034 MiB, 580.65.06";; *) echo "| CUDA Version: 13.0 |";; esac'
    )
    assert find_gpu(result) == GPU


def test_the_gpu_is_the_one_that_programs_see(smi):
    result = smi('case "$*" in *--id=3*) echo "three, 1 MiB, 580";; *) echo "";; esac')
    assert find_gpu(result | {"CUDA_VISIBLE_DEVICES": "3,1"}) == "three, 1 MiB, driver 580"


@pytest.mark.parametrize("text", ["echo No devices were found", "echo No devices were found; exit 6"])
def test_a_driver_without_a_gpu_is_none(smi, text):
    with pytest.raises(NoGpuError, match=r"^nvidia-smi says: No devices were found$"):
        find_gpu(smi(text))


def test_without_a_gpu_it_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["--device", "cuda", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("--device cuda finds no NVIDIA GPU here (no nvidia-smi on the PATH")
    assert output.err.count("\n") == 1
    assert not output.out
    assert not list(tmp_path.iterdir())


def test_without_records_there_is_nothing_to_show(tmp_path, capsys):
    assert command.main(["--device", "cuda", "--show", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path} has no records.jsonl to show")


def test_a_device_has_its_own_peers_precisions_works_and_results():
    options = command.parse(["--device", "cuda"])
    assert (options.peers, options.precisions, options.works) == (list(PEERS), ["fp16"], list(CUDA_WORKS))
    assert options.out == RESULTS / "cuda"
    assert command.parse(["--device", "cuda", "--quick"]).works == ["decode", "decode_64", "prefill"]
    assert command.parse([]).out == RESULTS


@pytest.mark.parametrize("words", [["--device", "tpu"], ["--device", "cuda", "--precisions", "int8"]])
def test_what_a_device_lacks_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        command.parse(words)
    assert words[-1] in capsys.readouterr().err


def test_a_work_of_a_gpu_has_a_figure_and_fits_the_model():
    assert set(CUDA_WORKS) <= set(FIGURES)
    assert all(work.prompt + work.new <= 1024 for work in CUDA_WORKS.values())
    assert {aim.figure for aim in CUDA.aims} | set(CUDA.rooflines) | set(CUDA.quick) <= set(CUDA_WORKS)
    assert {aim.peer for aim in CUDA.aims} <= set(PEERS)


def test_a_peer_like_another_has_its_environment_and_other_options():
    compiled = PEERS["transformers_compiled"]
    assert (compiled.adapter, compiled.environment, compiled.options) == (
        "transformers",
        "transformers",
        {"compiled": True},
    )
    assert compiled.requirements == PEERS["transformers"].requirements
    assert (PEERS["ours_graph"].adapter, PEERS["ours_graph"].options) == ("ours", {"cuda_graph": True})


@pytest.fixture
def bench(tmp_path):
    """Three counting runtimes; the second cannot hold 8 rows, the third does not load."""
    device = replace(
        CUDA,
        works={name: replace(CUDA_WORKS[name], prompt=3, new=4) for name in ("decode", "decode_8", "start")},
        bandwidth="counting",
        load={"device": "cuda", "known": "fp16"},
    )
    program = Program(python=Path(sys.executable), adapter="counting", model=Path("model"))
    programs = {
        OURS: program,
        GRAPH: replace(program, options={"most": 4}),
        Variant(peer="other", precision="fp16"): replace(program, options={"known": "fp32"}),
    }
    return Bench(
        device=device, programs=programs, threads=1, vocabulary=50, logs=tmp_path, failures={}, report=lambda line: None
    )


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("rounds.SETTLE_SECONDS", 0)


@pytest.mark.usefixtures("no_pause")
def test_a_work_that_does_not_fit_is_left_out_alone(bench):
    records = list(bench.measure(["decode_8", "decode", "start"], 2))
    taken = {(record.peer, record.figure) for record in records}
    assert taken == {("memory", "bandwidth"), ("ours", "decode_8")} | {
        (peer, figure) for peer in ("ours", "ours_graph") for figure in ("decode", "start", "whole")
    }
    assert bench.failures == {
        "other fp16": "load: ValueError: fp16 is not known",
        "ours_graph fp16, decode, 8 x (32 + 128)": "generate: MemoryError: 8 rows are too many",
    }
    assert {record.bandwidth for record in records if record.figure == "decode"} == {2e9}


@pytest.mark.usefixtures("no_pause")
def test_every_turn_runs_once_unmeasured_and_releases_its_memory(bench, tmp_path):
    list(bench.measure(["decode"], 3))
    assert (tmp_path / "ours-fp16.log").read_text().count("released") == 1 + 3  # warming up, and three rounds


@pytest.mark.usefixtures("no_pause")
def test_if_ours_cannot_do_a_workload_the_others_keep_their_times(bench):
    bench.programs = {OURS: bench.programs[GRAPH], GRAPH: bench.programs[OURS]}
    result = {record.peer: record for record in list(bench.measure(["decode_8"], 1))}
    assert set(result) == {"memory", "ours_graph"}
    assert (result["ours_graph"].equal, result["ours_graph"].total) == (None, None)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("adapter", ["missing", "ours"])
def test_without_the_bandwidth_everything_but_the_roofline_is_measured(bench, adapter):
    bench.device = replace(bench.device, bandwidth=adapter, bandwidth_peer="ours")
    records = list(bench.measure(["decode"], 1))
    assert {(record.figure, record.bandwidth) for record in records} == {("decode", None)}
    assert bench.failures["bandwidth"]


def record(peer, figure, value, number, equal=100):
    return Record(
        peer=peer, precision="fp16", figure=figure, value=value, round=number, equal=equal, total=128, bandwidth=2e12
    )


@pytest.fixture
def run():
    """Two rounds; memory copied at 2,000 GB/s."""
    records = []
    for number, speed in enumerate((1.0, 0.5)):
        records += [
            Record(peer="memory", precision="", figure="bandwidth", value=2000, round=number),
            record("ours", "decode", 1000 * speed, number, equal=128),
            record("ours_graph", "decode", 2000 * speed, number),
            record("transformers", "decode", 400 * speed, number, equal=7),
            record("transformers_compiled", "decode", 1250 * speed, number),
            record("ours", "decode_64", 32_000 * speed, number),
            record("transformers", "decode_64", 25_600 * speed, number),
        ]
    return Run(
        machine=Machine(
            date="2026-11-22", cpu="a CPU", cores=16, memory_gb=128, system="Linux 6", python="3.11.7", gpu=GPU
        ),
        threads=2,
        rounds=2,
        bytes_a_token=248_000_000,
        versions={"ours": "0.1.0"},
        megabytes={},
        failures={"ctranslate2 fp16": "load: RuntimeError: no cuBLAS"},
        records=records,
        device="cuda",
        cached_bytes=36_864,
    )


def test_the_roofline_counts_weights_once_and_the_cache_of_every_row(run):
    work = Work(rows=64, prompt=896, new=100)
    assert step_bytes(run, work) == 248e6 + 64 * 946 * 36_864
    assert step_bytes(replace(run, cached_bytes=0), work) == 248e6
    assert bandwidth(run) == (2000, 2000, 2000)
    assert roofline(run) == pytest.approx(750 * (248e6 + 96 * 36_864) / 2e12)
    assert roofline(run, "decode_64", "transformers") == pytest.approx(300 * (248e6 + 64 * 96 * 36_864) / 2e12)


def test_the_table_holds_ours_to_its_aims(run):
    text = table(run, PEERS)
    assert "| aim | at least | gpt2-runtime | gpt2-runtime, CUDA graph |" in text
    assert "| decode, 32 + 128 tokens, against transformers | 2.0 | 2.50 | 5.00 |" in text
    assert "| decode, 32 + 128 tokens, against transformers, compiled | 1.0 | **0.80** | 1.60 |" in text
    assert "| decode, 64 x (32 + 128), against transformers | 1.5 | **1.25** | - |" in text


def test_the_table_counts_ids_and_keeps_every_time(run):
    text = table(run, PEERS)
    assert "| transformers | fp16, sdpa | 300 (2.50) | 19,200 (1.25) | 7 of 128 | - |" in text
    assert "| gpt2-runtime, CUDA graph | fp16 | 1,500 (0.50) | - | 100 of 128 | - |" in text
    assert "| decode, 32 + 128 tokens | **0.80** (750 tokens/s; transformers, compiled 938) |" in text
    assert "mismatches are counted, not disqualifying." in text


def test_the_notes_show_the_roofline_of_each_workload_and_the_gpu(run):
    text = table(run, PEERS)
    assert "a step reads, MB | gpt2-runtime | gpt2-runtime, CUDA graph |" in text
    assert "| decode, 32 + 128 tokens | 252 | 9% | 19% |" in text
    assert "| decode, 64 x (32 + 128) | 474 | 9% | - |" in text
    assert "this GPU copies 2,000 GB/s" in text
    assert "- ctranslate2 fp16: load: RuntimeError: no cuBLAS" in text
    assert text.rstrip().endswith(f"2026-11-22, {GPU}, a CPU, 16 cores, 128 GB, Linux 6, Python 3.11.7.")


def test_the_chart_is_of_one_column(run):
    root = ElementTree.fromstring(chart(run, PEERS))
    bars = root.findall(".//{*}rect")
    assert [bar.get("class") for bar in bars] == ["bar ours", "bar", "bar ours", "bar", "bar ours", "bar"]
    assert all(float(bar.get("x")) + float(bar.get("width")) <= 960 - 16 for bar in bars)
    output = "".join(root.itertext())
    assert "GPT-2 124M on a GPU in fp16" in output
    assert f"2026-11-22, {GPU}, 2 threads; medians of 2 rounds" in output


def test_a_run_round_trips_through_its_records(run, tmp_path):
    write_run(run, tmp_path / "records.jsonl")
    assert read_run(tmp_path / "records.jsonl") == run


def test_records_of_the_cpu_from_before_there_were_devices_give_the_same_table_and_chart():
    old = read_run(RESULTS / "records.jsonl")
    assert (old.device, old.cached_bytes, old.machine.gpu) == ("cpu", 0, None)
    assert table(old, read_peers()) == (RESULTS / "table.md").read_text(encoding="utf-8")
    assert chart(old, read_peers()) == (RESULTS / "chart.svg").read_text(encoding="utf-8")


LIBCUDART = """
#include <stdlib.h>
#include <string.h>
static int synchronized, copies;
int cudaMalloc(void **pointer, size_t size) { if (size > 1 << 20) return 2; *pointer = malloc(size); return 0; }
int cudaMemset(void *pointer, int value, size_t size) { memset(pointer, value, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  memcpy(to, from, size); copies++; return kind == 3 && !stream ? 0 : 1;
}
int cudaDeviceSynchronize(void) { synchronized = copies; return 0; }
int unfinished(void) { return copies - synchronized; }
const char *cudaGetErrorString(int status) { return "out of memory"; }
"""


@pytest.fixture
def libcudart(tmp_path):
    """The functions of it that are called, over the host's memory."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    (tmp_path / "cudart.c").write_text(LIBCUDART)
    library = tmp_path / "libcudart.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "cudart.c"], check=True)
    return ctypes.CDLL(str(library))


def test_the_copy_of_the_gpu_is_counted_twice_and_waited_for(libcudart):
    from adapters.bandwidth_cuda import COPIES, Bandwidth

    adapter = Bandwidth()
    adapter.start(libcudart, 1 << 20)
    read = adapter.read()
    assert read["bytes"] == 2 * COPIES * 2**20
    assert read["seconds"] > 0
    assert libcudart.unfinished() == 0
    assert ctypes.string_at(adapter.target, 3) == b"\1\1\1"
    with pytest.raises(RuntimeError, match=r"^cudaMalloc failed with 2: out of memory$"):
        Bandwidth().start(libcudart, 1 << 21)


def test_without_cuda_the_copy_says_so():
    pytest.importorskip("onnxruntime")
    from adapters.bandwidth_cuda import Bandwidth

    with pytest.raises(Exception, match="provider cuda"):
        Bandwidth().load("", "", 1)
