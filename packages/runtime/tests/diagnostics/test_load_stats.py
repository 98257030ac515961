import json

import pytest
from click.testing import CliRunner
from gpt2_runtime.cli.command import main
from gpt2_runtime.diagnostics import load_stats
from gpt2_runtime.diagnostics.load_stats import load
from gpt2_runtime.diagnostics.process_memory import Memory
from gpt2_runtime.errors import BundleError


def test_each_part_has_its_own_seconds(folder, monkeypatch):
    ticks = iter([0, 1, 3, 7])
    monkeypatch.setattr(load_stats, "perf_counter", lambda: next(ticks))
    memories = iter([Memory(own=100, mapped=20), Memory(own=130, mapped=25)])
    monkeypatch.setattr(Memory, "now", lambda: next(memories))
    generator, cost = load(folder, threads=1)
    assert (cost.import_seconds, cost.graph_seconds, cost.tokenizer_seconds) == (1, 2, 4)
    assert (cost.own_bytes, cost.mapped_bytes) == (30, 5)
    assert generator.complete("The dog", max_new_tokens=2).text


def test_a_system_without_memory_figures_is_quoted_with_none(folder, monkeypatch):
    monkeypatch.setattr(Memory, "now", lambda: None)
    _, cost = load(folder)
    assert (cost.own_bytes, cost.mapped_bytes) == (None, None)
    monkeypatch.setattr(load_stats, "peak_rss", lambda: None)
    shown = CliRunner().invoke(main, ["inspect", str(folder), "--load"]).stdout
    assert "memory     unknown here of its own, unknown here mapped from files" in shown


def test_inspect_shows_it_on_request(folder):
    asked = json.loads(CliRunner().invoke(main, ["inspect", str(folder), "--load", "--json"]).stdout)
    assert asked["loading"].keys() == {
        "import_seconds", "graph_seconds", "tokenizer_seconds", "own_bytes", "mapped_bytes", "peak_rss_bytes",
    }  # fmt: skip
    assert 0 < asked["loading"]["graph_seconds"] < 60
    assert json.loads(CliRunner().invoke(main, ["inspect", str(folder), "--json"]).stdout)["loading"] is None
    assert "\nloading\n  import" in CliRunner().invoke(main, ["inspect", str(folder), "--load"]).stdout


def test_a_folder_that_is_not_there_is_refused_as_ever(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        load(tmp_path / "nowhere")
