"""onnxruntime's own CUDA provider, on fake libraries: it places every operator as on a GPU."""

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
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The output of `session_without_gpu.py`."""
    environment = fake_cuda.make(tmp_path_factory.mktemp("libraries"))
    command = [sys.executable, "-X", "faulthandler", str(HERE / "session_without_gpu.py"), str(TINY)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    answer: dict[str, Any] = json.loads(process.stdout)
    return answer


@pytest.mark.parametrize("name", ["fp32 portable", "fp16 portable", "int8 portable", "int4 portable", "explaining"])
def test_only_size_operators_of_the_portable_graph_run_on_the_cpu(name: str, printed: dict[str, Any]) -> None:
    assert printed[name]["provider"] >= 80
    assert set(printed[name]["cpu"]) <= {"Concat", "Reshape", "Squeeze", "Sub"}


def test_nothing_of_the_serving_graph_in_fp16_runs_on_the_cpu(printed: dict[str, Any]) -> None:
    assert printed["fp16 serving"] == {"provider": 42, "cpu": {}}


def test_the_highest_logits_are_searched_on_the_provider(printed: dict[str, Any]) -> None:
    assert printed["top_k"] == {"provider": 2, "cpu": {}}


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_serving_graph_is_refused_if_attention_would_run_on_the_cpu(
    precision: str, printed: dict[str, Any]
) -> None:
    assert f"graph is 'serving', which has no {precision} kernel on cuda" in printed[f"{precision} serving"]


def test_the_default_is_the_fastest_graph_with_kernels(printed: dict[str, Any]) -> None:
    defaults = {name.split()[0]: graph for name, graph in printed.items() if name.endswith("default")}
    assert defaults == {"fp32": "portable", "fp16": "serving", "int8": "portable", "int4": "portable"}


@pytest.mark.parametrize("name", ["fp16 captured", "fp32", "fp16", "int8", "int4"])
def test_every_way_to_generate_runs_to_the_end(name: str, printed: dict[str, Any]) -> None:
    assert printed["texts"][name] == [80, 80, 40]


def test_a_captured_step_is_one_launch_and_a_plain_one_is_one_per_kernel(
    printed: dict[str, Any],
) -> None:
    plain, captured = (printed["launches"][name] for name in ("plain", "captured"))
    assert all(kernels > 20 and graphs == 0 for kernels, graphs in plain)
    prompt, first, *steps, ragged, last = captured[:7]
    assert [prompt, ragged] == [plain[0], plain[5]]
    assert first[0] > plain[1][0]  # onnxruntime runs it before it captures it
    assert [first[1], *steps, last] == [1, [0, 1], [0, 1], [0, 1], [0, 1]]


def test_the_next_cache_finds_its_step_captured(printed: dict[str, Any]) -> None:
    plain, captured = (printed["launches"][name][7:] for name in ("plain", "captured"))
    assert captured == [plain[0], *[[0, 1]] * 4, plain[5], [0, 1]]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU, and its libraries")
def test_a_missing_library_is_reported_in_one_line() -> None:
    command = [sys.executable, "-c", "from gpt2_runtime.cli.command import main; main()", "inspect", str(TINY)]
    process = subprocess.run([*command, "--provider", "cuda"], capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: provider cuda cannot start, lib")


def test_operators_that_would_run_on_the_cpu_are_refused(tmp_path: Path) -> None:
    """The same graph, as if the missing kernel were unknown."""
    program = (
        "from gpt2_runtime import Session\nfrom gpt2_runtime.engine import session\n"
        "session.choose_graph = lambda *_: 'serving'\n"
        f"try: Session.open({str(TINY)!r}, provider='cuda')\n"
        "except Exception as error: print(error)"
    )
    environment = fake_cuda.make(tmp_path)
    output = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True).stdout
    assert output.startswith("provider cuda would leave operators to the CPU: GroupQueryAttention (2); ")
