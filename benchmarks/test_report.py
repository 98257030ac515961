"""Records to medians, ratios, table and chart."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from chart import chart
from machine import Machine
from peers import Variant, read_peers
from ratios import best_peer, cells, roofline
from records import Record, Run, read_run, write_run
from table import table

MACHINE = Machine(date="2026-11-22", cpu="a <CPU>", cores=2, memory_gb=24, system="Linux 6", python="3.11.7")
PEERS = read_peers()


def record(peer, precision, figure, value, number, equal=128, **more):
    return Record(
        peer=peer, precision=precision, figure=figure, value=value, round=number, equal=equal, total=128, **more
    )


@pytest.fixture
def run():
    """Three rounds on a machine that is half as fast in the second; memory read at 20 GB/s."""
    records = []
    for number, speed in enumerate((1.0, 0.5, 1.0)):
        records += [
            Record(peer="memory", precision="", figure="bandwidth", value=20 * speed, round=number),
            record("ours", "fp32", "decode", 40 * speed, number, bandwidth=2e10 * speed),
            record("ctranslate2", "fp32", "decode", 32 * speed, number),
            record("llama_cpp", "fp32", "decode", 60 * speed, number, equal=127 if number == 1 else 128),
            record("llama_cpp", "int4", "decode", 99, number, equal=4),
            record("ours", "fp32", "prefill", 500 / speed, number, equal=1),
            record("transformers", "fp32", "prefill", 400 / speed, number),
        ]
    return Run(
        machine=MACHINE,
        threads=2,
        rounds=3,
        bytes_a_token=400_000_000,
        versions={"ours": "0.1.0"},
        megabytes={"ours fp32": 500.0},
        failures={"openvino_genai": "does not install: ERROR: no such package"},
        records=[replace(each, total=each.equal) if each.figure == "prefill" else each for each in records],
    )


def test_ratios_are_taken_within_a_round(run):
    results = cells(run)
    cell = results[Variant(peer="ctranslate2", precision="fp32"), "decode"]
    assert (cell.value, cell.ratio) == (32, 1.25)
    assert results[Variant(peer="transformers", precision="fp32"), "prefill"].ratio == 0.8
    assert results[Variant(peer="ours", precision="fp32"), "decode"].ratio is None
    assert results[Variant(peer="llama_cpp", precision="int4"), "decode"].ratio is None


def test_other_ids_give_no_time_in_fp32_only(run):
    results = cells(run)
    assert results[Variant(peer="llama_cpp", precision="fp32"), "decode"].differs
    assert not results[Variant(peer="llama_cpp", precision="int4"), "decode"].differs
    best = best_peer(results, "decode", "fp32")
    assert best is not None
    assert best[0].peer == "ctranslate2"


def test_the_roofline_is_of_the_highest_bandwidth(run):
    assert roofline(run) == pytest.approx(40 * 400e6 / 20e9)
    # Each reading but one disturbed: of its own round's, decoding would be at 160 %.
    disturbed = [
        replace(each, **{name: value / 2 for name in ("value", "bandwidth") if (value := getattr(each, name))})
        if each.round and each.figure == "bandwidth"
        else replace(each, bandwidth=each.bandwidth / 2)
        if each.round and each.bandwidth
        else each
        for each in run.records
    ]
    assert roofline(replace(run, records=disturbed)) == pytest.approx(40 * 400e6 / 20e9)


def test_no_share_above_the_roofline_is_shown(run):
    """Caches hold what is read: memory sets no limit, so there is no share of it to show."""
    small = replace(run, bytes_a_token=500_000_001)
    assert roofline(small) is None
    assert roofline(replace(run, bytes_a_token=500_000_000)) == pytest.approx(1)
    assert "roofline" not in table(small, PEERS)


def test_the_table_is_complete(run):
    text = table(run, PEERS)
    assert (
        "| decode, 32 + 128 tokens | **1.25** (40 tokens/s; CTranslate2 32) | - | - (llama.cpp 99 tokens/s) |" in text
    )
    assert "| llama.cpp | F32, cache F16 | differs | - | 127 of 128 | - |" in text
    assert "| CTranslate2 | float32 | 32 (1.25) | - | 128 of 128 | - |" in text
    assert "at 80% of the roofline: each token reads 400.0 MB" in text
    assert "- openvino_genai: does not install: ERROR: no such package" in text
    assert text.rstrip().endswith(f"{MACHINE}.")


def test_the_chart_is_svg_with_a_bar_for_each_time(run):
    root = ElementTree.fromstring(chart(run, PEERS))
    bars = root.findall(".//{*}rect")
    assert len(bars) == 5  # decode: ours, CTranslate2, and llama.cpp in int4; prefill: ours and transformers
    assert "a <CPU>" in "".join(root.itertext())


def test_a_run_round_trips_through_its_records(run, tmp_path):
    write_run(run, tmp_path / "records.jsonl")
    assert read_run(tmp_path / "records.jsonl") == run


def test_a_run_of_nothing_is_still_a_report(run):
    empty = replace(run, records=[], failures={})
    assert table(empty, PEERS)
    assert ElementTree.fromstring(chart(empty, PEERS)) is not None
