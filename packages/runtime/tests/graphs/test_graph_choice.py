"""What may run, and how: `fast_single` is for blocks on the CPU, and refused by name elsewhere."""

import numpy as np
import pytest
from click.testing import CliRunner
from gpt2_runtime import GREEDY, LookupConfig, Session, TextGenerator
from gpt2_runtime.cli.command import main
from gpt2_runtime.errors import SettingError
from gpt2_runtime.graphs.graph_choice import runs_evenly
from gpt2_runtime.providers.providers import PROVIDERS


@pytest.mark.parametrize(
    ("precision", "name"), [("fp32", "cpu"), ("fp16", "cpu"), ("fp16", "cuda"), ("int8", "cuda"), ("int4", "cuda")]
)
def test_it_is_refused_where_it_would_change_nothing(precision, name):
    assert not runs_evenly(precision, PROVIDERS[name], False)
    with pytest.raises(SettingError, match=rf"fast_single is on, .* not {precision} on {name}; leave it off"):
        runs_evenly(precision, PROVIDERS[name], True)


@pytest.mark.parametrize("value", [1, None, "yes", np.True_])
def test_it_is_a_boolean(folder, value):
    with pytest.raises(SettingError, match=r"fast_single is .*, must be True or False"):
        Session.open(folder, precision="int8", fast_single=value)


@pytest.mark.parametrize("graph", ["serving", "portable"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_blocks_run_evenly_unless_it_is_on(folder, precision, graph):
    session = Session.open(folder, precision=precision, graph=graph, threads=1)
    single = Session.open(folder, precision=precision, graph=graph, threads=1, fast_single=True)
    assert (session.even, session.fast_single) == (True, False)
    assert (single.even, single.fast_single) == (False, True)
    assert Session.open(folder, threads=1, graph=graph).even is False


def test_a_session_sent_elsewhere_is_opened_there_as_it_was(folder):
    single = Session.open(folder, precision="int8", threads=1, fast_single=True)
    reopen, arguments = single.__reduce__()
    assert reopen(*arguments).fast_single


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_lookup_guesses_only_where_that_changes_no_text(folder, precision):
    prompt = [5, 6, 7, 8] * 6
    settings = {"max_new_tokens": 20, "sampling": GREEDY, "stop_token_ids": (299,)}
    plain = TextGenerator.open(folder, precision=precision, threads=1)
    found = plain.complete(prompt, lookup=LookupConfig(), **settings)
    assert found.token_ids == plain.complete(prompt, **settings).token_ids
    assert found.timings.draft_tokens == 0
    single = TextGenerator.open(folder, precision=precision, threads=1, fast_single=True)
    assert single.complete(prompt, lookup=LookupConfig(), **settings).timings.draft_tokens > 0


def test_the_command_says_when_lookup_makes_no_guess(folder):
    arguments = ["generate", str(folder), "the", "--temperature", "0", "--max-new-tokens", "5", "--lookup"]
    message = CliRunner().invoke(main, [*arguments, "--precision", "int8"])
    assert message.exit_code == 0
    assert "add --fast-single to allow that" in message.stderr
    silent = CliRunner().invoke(main, [*arguments, "--precision", "int8", "--fast-single"])
    assert (silent.exit_code, silent.stderr) == (0, "")
    refused = CliRunner().invoke(main, [*arguments, "--fast-single"])
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "fast_single is on, but it is only for int8 and int4 on cpu, not fp32 on cpu" in refused.stderr
