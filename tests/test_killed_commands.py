"""quantize, killed by SIGKILL at each rename in the kernel: the folder opens, and running it again repairs it."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gpt2_export.folder import manifest
from gpt2_runtime import SamplingConfig, TextGenerator
from gpt2_runtime.folder.bundle import Bundle

TINY = Path(__file__).parent.parent / "packages" / "runtime" / "tests" / "data" / "tiny"
STRACE = shutil.which("strace")
WORDS = ["quantize", "--precision", "int8", "--max-ppl-increase", "1000", "--keep", "h.0.mlp.c_fc"]
COMMAND = [sys.executable, "-c", "from gpt2_export.cli.command import main; main()"]


def text(folder: Path, precision: str) -> str:
    generator = TextGenerator.open(folder, precision=precision, threads=1)
    return generator.complete("To be", max_new_tokens=8, sampling=SamplingConfig(temperature=0)).text


@pytest.mark.nightly
@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("already", [False, True], ids=["new", "again"])
def test_killed_at_any_rename_the_folder_opens_and_the_same_command_repairs_it(tmp_path: Path, already: bool) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "folder"))
    if not already:
        whole = manifest.read(folder)
        files = {name: file for name, file in whole.files.items() if "int8" not in name}
        for name in whole.files.keys() - files.keys():
            (folder / name).unlink()
        quality = {name: report for name, report in whole.quality.items() if name != "int8"}
        without = manifest.again(replace(whole, files=files, quality=quality))
        (folder / manifest.MANIFEST).write_text(manifest.text(without))
    before = text(folder, "fp32")
    moment = 0
    while True:
        moment += 1
        trial = Path(shutil.copytree(folder, tmp_path / f"trial-{moment}"))
        command = [*COMMAND, WORDS[0], str(trial), *WORDS[1:]]
        renames = "rename,renameat,renameat2"
        inject = f"inject={renames}:signal=KILL:when={moment}"
        traced = [str(STRACE), "-f", "-o", os.devnull, "-e", f"trace={renames}", "-e", inject, *command]
        ran = subprocess.run(traced, capture_output=True, text=True, check=False)
        Bundle.open(trial, check_hashes=True)
        assert text(trial, "fp32") == before
        if ran.returncode == 0:
            break
        assert ran.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), ran.stderr
        mended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert mended.returncode == 0, mended.stderr
        Bundle.open(trial, check_hashes=True)
        assert text(trial, "int8")
        assert not [path.name for path in trial.iterdir() if path.name.startswith(".")]
    assert moment > 6
