"""What becomes of an open folder's files never ends the process and never changes a text."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("changing_folder.py")


@pytest.mark.parametrize("load", ["copy", "map"])
@pytest.mark.parametrize(
    "change", ["truncate", "overwrite", "overwrite_and_set_the_time_back", "replace", "grow", "delete"]
)
def test_a_folder_that_changes_underneath_gives_the_same_text_or_one_line(folder, tmp_path, change, load):
    command = [sys.executable, str(PROGRAM), str(folder), str(tmp_path), change, load]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    event = lines[-1] if lines else "nothing"
    ended = f"ended by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else done.stderr
    assert done.returncode == 0, f"{ended} after {event}"
    results = [line for line in lines if "starts" not in line]
    assert len(results) == 20
    for result in results:
        if "refused" not in result:
            assert result["found"] == result["expected"], result["case"]
            continue
        # Held in memory there is nothing to refuse, but to pack what has changed since.
        assert load == "map" or (result["case"].endswith("packed late") and not result["asked before"])
        assert "has changed since the folder was opened" in result["refused"]
        assert "\n" not in result["refused"]
    if load == "map":
        assert all("refused" in result for result in results)
