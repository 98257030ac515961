"""What `bench` reports, and that its figures follow from what was measured. How fast it is, is not tested."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from gpt2_runtime import Session
from gpt2_runtime.cli.command import main
from gpt2_runtime.diagnostics import bench, roofline
from gpt2_runtime.engine.buffers import on_device
from gpt2_runtime.errors import SettingError
from gpt2_runtime.providers.providers import PROVIDERS

STEPS = bench.STEPS


@pytest.fixture(autouse=True)
def _little_to_read(monkeypatch):
    monkeypatch.setattr(roofline, "ARRAY_BYTES", 80_000)


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock is a second after the last one."""
    now = iter(range(100_000))
    monkeypatch.setattr(bench, "perf_counter", lambda: float(next(now)))
    monkeypatch.setattr(roofline, "read_bandwidth", lambda array, threads: array.nbytes * 100)


def test_rates_are_tokens_by_seconds(folder, clock):
    report = bench.bench(folder, contexts=(5, 20), batches=(1, 3), rounds=2)
    (prefill,) = report.prefill
    assert (prefill.tokens, prefill.milliseconds, prefill.tokens_per_second) == (32, 1000, 32)
    assert [(d.context, d.batch) for d in report.decode] == [(5, 1), (5, 3), (20, 1), (20, 3)]
    assert [d.tokens_per_second for d in report.decode] == [STEPS * batch for batch in (1, 3, 1, 3)]
    assert (report.load_seconds, report.first_token_seconds) == (1, 1)


def test_the_roofline_is_the_time_of_reading_by_the_time_of_a_step(folder, clock):
    report = bench.bench(folder, contexts=(5,), batches=(2,), rounds=1)
    assert report.read_bandwidth_gb_per_second == pytest.approx(8e6 / 1e9)
    weights = 4 * (300 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32)  # tied: the head is the embedding
    cache = 4 * 2 * 2 * 32 * (5 + STEPS // 2) * 2
    (decode,) = report.decode
    assert decode.roofline == pytest.approx((weights + cache) / 8e6 / (1 / STEPS))
    assert decode.roofline < 1


def test_the_roofline_is_of_the_highest_bandwidth(folder, clock, monkeypatch):
    readings = iter([9e6, 1e6, 8e6, 2e6])  # the first only warms up
    monkeypatch.setattr(roofline, "read_bandwidth", lambda array, threads: next(readings))
    report = bench.bench(folder, contexts=(5,), batches=(1,), rounds=3)
    assert report.read_bandwidth_gb_per_second == pytest.approx(8e6 / 1e9)


def test_no_share_above_the_roofline_is_shown(folder, clock, monkeypatch):
    monkeypatch.setattr(roofline, "read_bandwidth", lambda array, threads: 1e6)
    report = bench.bench(folder, contexts=(5,), batches=(1,), rounds=1)
    assert report.decode[0].roofline is None
    printed = "\n".join(bench.lines(report))
    assert "%" not in printed
    assert "- read faster than memory was: the processor's caches hold it" in printed


def test_a_round_is_everything_and_the_first_one_only_warms_up(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(roofline, "read_bandwidth", lambda array, threads: seen.append(threads) or 1e9)
    progress = []
    report = bench.bench(folder, threads=2, rounds=3, progress=lambda *parts: progress.append(parts))
    assert seen == [2] * 4
    assert report.rounds == 3
    total = progress[-1][1]
    assert progress == [(done, total) for done in range(1, total + 1)]


def test_json_is_the_one_object_that_was_promised(folder):
    result = CliRunner().invoke(main, ["bench", str(folder), "--rounds", "1", "--batch", "1", "--batch", "2", "--json"])
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found.keys() >= {
        "load_seconds", "first_token_seconds", "peak_rss_mb", "read_bandwidth_gb_per_second", "threads", "precision",
        "provider", "versions",
    }  # fmt: skip
    assert [set(entry) for entry in found["decode"]] == [{"context", "batch", "tokens_per_second", "roofline"}] * 2
    assert [set(entry) for entry in found["prefill"]] == [{"tokens", "milliseconds", "tokens_per_second"}]
    assert (found["precision"], found["graph"], found["provider"]) == ("fp32", "serving", "CPUExecutionProvider")
    assert found["versions"].keys() >= {"gpt2-runtime", "onnxruntime", "numpy", "python"}
    assert min(d["tokens_per_second"] for d in found["decode"]) > 0
    assert 1 < found["peak_rss_mb"] < 10_000


def test_what_is_requested_twice_is_measured_once(folder):
    report = bench.bench(folder, contexts=(5, 5), batches=(2, 2), rounds=1)
    assert [(decode.context, decode.batch) for decode in report.decode] == [(5, 2)]
    with pytest.raises(SettingError, match="batch has no values"):
        bench.bench(folder, batches=())


def test_the_table_is_for_people(folder):
    result = CliRunner().invoke(main, ["bench", str(folder), "--rounds", "1", "--graph", "portable", "--threads", "1"])
    assert result.stdout.startswith("tiny: fp32, portable graph, CPUExecutionProvider, 1 threads\nload ")
    assert "medians of 1 rounds" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "error: rounds is 0, must be an integer from 1 to 1000\n"),
        (["--batch", "0"], "error: batch is 0, must be an integer from 1 to 1024\n"),
        (["--context", "0"], "error: context is 0, must be an integer of at least 1\n"),
        (
            ["--context", "49"],
            "error: context is 49, must be at most 48: the model reads 64 tokens, 16 of them are decoded here\n",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(folder, options, message):
    result = CliRunner().invoke(main, ["bench", str(folder), *options])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)


def test_a_model_of_few_positions_is_measured_at_half_of_them(damaged, edit):
    assert bench._fitting((32, 512), 64) == (32,)
    assert bench._fitting((32, 512), 16) == (8,)
    assert bench._fitting((32, 512), 1) == (1,)


def test_a_bool_is_no_number(folder):
    with pytest.raises(SettingError, match="rounds is True"):
        bench.bench(folder, rounds=True)


def test_on_a_device_the_roofline_is_of_what_lies_there(folder, clock, monkeypatch, cuda_runtime):
    """Numbers of 2 bytes, read as they are stored, at the speed of the device's own copies; pretended on the CPU."""
    session = Session.open(folder, precision="fp16", threads=2)
    monkeypatch.setattr(bench, "on_device", lambda shape, dtype, device: on_device(shape, dtype, "cpu"))
    monkeypatch.setattr(roofline, "perf_counter", bench.perf_counter)
    elsewhere = replace(session, provider=PROVIDERS["cuda"])
    monkeypatch.setattr(bench.Session, "open", lambda *_, **__: elsewhere)
    report = bench.bench(folder, contexts=(5,), rounds=1)
    assert report.read_bandwidth_gb_per_second == 2 * 80_000 / 1e9  # read and written, in a second
    weights = 2 * (300 * 32 + 2 * 12 * 32 * 32) + 4 * (2 * 13 * 32 + 2 * 32)  # biases and norms stay float32
    cache = 2 * 2 * 2 * 32 * (5 + STEPS // 2)
    assert [decode.batch for decode in report.decode] == [1, 8, 64, 256]
    assert report.decode[0].roofline is None  # of this clock a copy takes as long as sixteen steps
    possible = bench._possible(elsewhere, 5, 1, 2 * 80_000)
    assert possible == pytest.approx((weights + cache) / (2 * 80_000))
    printed = list(bench.lines(replace(report, cuda_graph=True)))
    assert printed[0] == "tiny: fp16, serving graph, CUDAExecutionProvider, 2 threads, a step is one CUDA graph"
    assert printed[3].endswith("MB of the host")
    assert printed[4].startswith("copy bandwidth  ")
    assert "of the copy roofline" in "".join(printed)
