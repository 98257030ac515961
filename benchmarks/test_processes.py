"""The protocol over a real process: requests, replies, and no process left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from processes import Adapter, PeerError, kill_group, last_line, process_tree, run

PYTHON = Path(sys.executable)


@pytest.fixture
def counting(tmp_path):
    with Adapter(PYTHON, "counting", threads=1, log=tmp_path / "log") as adapter:
        yield adapter


def test_a_batch_is_answered_in_order(counting):
    assert counting.ask("generate", prompts=[[1, 5], [9]], new_tokens=3)["ids"] == [[6, 7, 8], [10, 11, 12]]


def test_a_librarys_output_is_not_a_reply(counting):
    assert counting.ask("load", model="the model", precision="fp32", threads=1) == {}
    assert counting.log.read_text() == "loading the model\n" or counting.ask("generate", prompts=[[1]], new_tokens=1)


def test_an_error_is_one_line_and_the_adapter_continues(counting):
    with pytest.raises(PeerError, match=r"load: ValueError: int8 is not known$"):
        counting.ask("load", model="", precision="int8", threads=1)
    assert counting.ask("generate", prompts=[[1]], new_tokens=1)["ids"] == [[2]]


def test_a_dead_adapter_is_reported(counting):
    counting.process.kill()
    with pytest.raises(PeerError, match="process"):
        counting.ask("generate", prompts=[[1]], new_tokens=1)


def test_an_adapter_that_does_not_exist_says_why(tmp_path):
    with (
        Adapter(PYTHON, "missing", threads=1, log=tmp_path / "log") as adapter,
        pytest.raises(PeerError, match=r"No module named adapters\.missing"),
    ):
        adapter.ask("load")


def test_a_silent_adapter_is_given_up(tmp_path, counting):
    counting.process.send_signal(signal.SIGSTOP)
    with pytest.raises(PeerError, match="no reply"):
        counting.ask("generate", timeout=0.1, prompts=[[1]], new_tokens=1)


def test_memory_and_time_are_those_of_the_tree(counting):
    counting.ask("generate", prompts=[[1]], new_tokens=1)
    assert 1 < counting.peak_megabytes() < 1000
    assert counting.cpu_seconds() >= 0


def test_a_process_that_has_ended_takes_nothing():
    process = subprocess.Popen(["true"])
    process.wait()
    assert process_tree(process.pid) == [process.pid]
    assert (processes._cpu_ticks(process.pid), processes._status_bytes(process.pid, "VmHWM:")) == (0, 0)


def test_an_adapter_ends_with_its_input(counting):
    counting.process.stdin.close()
    assert counting.process.wait(timeout=10) == 0


def test_children_end_with_their_parent(tmp_path):
    process = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], start_new_session=True)
    while len(tree := process_tree(process.pid)) < 3:
        time.sleep(0.01)
    kill_group(process)
    for _ in range(200):
        left = [pid for pid in tree if _runs(pid)]
        if not left:
            return
        time.sleep(0.01)
    pytest.fail(f"{left} of {tree} are left")


def test_a_failed_command_gives_its_last_error(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(PeerError, match=r"^ERROR: no such package$"):
        run(["sh", "-c", "echo ERROR: no such package; echo a notice; exit 1"], log=log)
    assert last_line(log) == "ERROR: no such package"


def _runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
