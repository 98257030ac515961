"""onnxruntime's own CUDA provider, on fake libraries: it puts every operator where it would on a GPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_cuda
import pytest

HERE = Path(__file__).parent
TINY = HERE.parents[1] / "packages/runtime/tests/data/tiny"

pytestmark = pytest.mark.skipif(bool(fake_cuda.why_not()), reason=str(fake_cuda.why_not()))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `session_without_gpu.py` prints."""
    environment = fake_cuda.make(tmp_path_factory.mktemp("libraries"))
    command = [sys.executable, "-X", "faulthandler", str(HERE / "session_without_gpu.py"), str(TINY)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    answer: dict[str, Any] = json.loads(process.stdout)
    return answer


@pytest.mark.parametrize("name", ["fp32 portable", "fp16 portable", "int8 portable", "int4 portable", "explaining"])
def test_of_the_portable_graph_sizes_alone_are_on_the_cpu(name: str, found: dict[str, Any]) -> None:
    assert found[name]["provider"] >= 80
    assert set(found[name]["cpu"]) <= {"Concat", "Reshape", "Squeeze", "Sub"}


def test_of_the_serving_graph_in_fp16_nothing_is_on_the_cpu(found: dict[str, Any]) -> None:
    assert found["fp16 serving"] == {"provider": 42, "cpu": {}}


def test_the_highest_logits_are_found_on_the_provider(found: dict[str, Any]) -> None:
    assert found["top_k"] == {"provider": 2, "cpu": {}}


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_where_attention_would_be_on_the_cpu_the_serving_graph_is_refused(
    precision: str, found: dict[str, Any]
) -> None:
    assert f"graph is 'serving', which has no {precision} kernel on cuda" in found[f"{precision} serving"]


def test_the_default_is_the_fastest_graph_that_there_are_kernels_for(found: dict[str, Any]) -> None:
    defaults = {name.split()[0]: graph for name, graph in found.items() if name.endswith("default")}
    assert defaults == {"fp32": "portable", "fp16": "serving", "int8": "portable", "int4": "portable"}


@pytest.mark.parametrize("name", ["fp16 captured", "fp32", "fp16", "int8", "int4"])
def test_every_way_to_a_text_runs_through(name: str, found: dict[str, Any]) -> None:
    assert found["texts"][name] == [80, 80, 40]


def test_a_captured_step_is_one_launch_where_another_is_one_for_each_kernel(
    found: dict[str, Any],
) -> None:
    told, captured = (found["launches"][name] for name in ("told", "captured"))
    assert all(kernels > 20 and graphs == 0 for kernels, graphs in told)
    prompt, first, *steps, ragged, last = captured[:7]
    assert [prompt, ragged] == [told[0], told[5]]
    assert first[0] > told[1][0]  # onnxruntime runs it before it captures it
    assert [first[1], *steps, last] == [1, [0, 1], [0, 1], [0, 1], [0, 1]]


def test_the_next_cache_finds_its_step_captured(found: dict[str, Any]) -> None:
    told, captured = (found["launches"][name][7:] for name in ("told", "captured"))
    assert captured == [told[0], *[[0, 1]] * 4, told[5], [0, 1]]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU, and its libraries")
def test_without_libraries_the_missing_one_is_told_in_one_line() -> None:
    command = [sys.executable, "-c", "from gpt2_runtime.cli.command import main; main()", "inspect", str(TINY)]
    process = subprocess.run([*command, "--provider", "cuda"], capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: provider cuda cannot start, lib")


def test_what_would_run_on_the_cpu_is_not_let_through(tmp_path: Path) -> None:
    """The same graph, had nobody known of the kernel that is missing."""
    program = (
        "from gpt2_runtime import Session\nfrom gpt2_runtime.engine import session\n"
        "session.choose_graph = lambda *_: 'serving'\n"
        f"try: Session.open({str(TINY)!r}, provider='cuda')\n"
        "except Exception as error: print(error)"
    )
    environment = fake_cuda.make(tmp_path)
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True).stdout
    assert told.startswith("provider cuda would leave operators to the CPU: GroupQueryAttention (2); ")
