from dataclasses import replace
from types import SimpleNamespace

import onnxruntime
import pytest
from gpt2_runtime.diagnostics.inspection import lines, report
from gpt2_runtime.errors import ProviderError
from gpt2_runtime.providers.placement import MOST_SIZES, Placement, placed, record
from gpt2_runtime.providers.providers import PROVIDERS

CUDA = PROVIDERS["cuda"]


class Inference:
    """Stands for an open graph: operator -> how many, on CUDA and on the CPU."""

    def __init__(self, cuda, cpu):
        self.parts = {"CUDAExecutionProvider": cuda, "CPUExecutionProvider": cpu}

    def get_provider_graph_assignment_info(self):
        for name, counts in self.parts.items():
            nodes = [SimpleNamespace(op_type=operator) for operator, count in counts.items() for _ in range(count)]
            yield SimpleNamespace(ep_name=name, get_nodes=lambda nodes=nodes: nodes)


def test_on_the_cpu_there_is_nothing_to_tell(session):
    assert session.placement is None
    assert placed(session.opened.inference, PROVIDERS["cpu"], 2) is None


def test_sizes_may_be_on_the_cpu():
    inference = Inference({"MatMul": 8, "Add": 3}, {"Squeeze": 3, "Concat": 3})
    assert placed(inference, CUDA, 2) == Placement(provider=11, cpu={"Concat": 3, "Squeeze": 3})


@pytest.mark.parametrize(
    ("cpu", "named"),
    [
        ({"GroupQueryAttention": 2, "Shape": 1}, r"GroupQueryAttention \(2\)"),
        ({"MatMulNBits": 1, "Gelu": 2}, r"Gelu \(2\), MatMulNBits \(1\)"),
        ({"Concat": MOST_SIZES + 3}, rf"Concat \({MOST_SIZES + 3}\)"),  # two layers' keys and values among them
    ],
)
def test_an_operator_that_computes_on_the_cpu_is_refused(cpu, named):
    with pytest.raises(ProviderError, match=rf"cuda would leave operators to the CPU: {named}; .*--provider cpu"):
        placed(Inference({"Add": 3}, cpu), CUDA, 2)


def test_a_session_that_tells_nothing_is_refused():
    with pytest.raises(ProviderError, match="would leave operators to the CPU: all"):
        placed(Inference({}, {}), CUDA, 2)
    with pytest.raises(ProviderError, match=r"needs onnxruntime-gpu 1\.24 or newer"):
        placed(SimpleNamespace(), CUDA, 2)


def test_onnxruntime_records_what_is_asked_for(folder):
    """The same question, of the CPU's own provider."""
    options = onnxruntime.SessionOptions()
    record(options)
    inference = onnxruntime.InferenceSession(folder / "model_serving.onnx", options, providers=["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"GroupQueryAttention \(2\), .*MatMul \(8\)"):
        placed(inference, CUDA, 2)


def test_inspect_tells_where_operators_are(session):
    on_gpu = replace(session, placement=Placement(provider=80, cpu={"Concat": 3, "Sub": 1}))
    told = "operators   80 on the provider; on the CPU of sizes alone: Concat (3), Sub (1)"
    assert told in lines(on_gpu, None)
    assert report(on_gpu, None)["placement"] == {"provider": 80, "cpu": {"Concat": 3, "Sub": 1}}
    nothing = replace(session, placement=Placement(provider=56, cpu={}))
    assert "operators   56 on the provider; on the CPU none" in lines(nothing, None)
    assert not [line for line in lines(session, None) if line.startswith("operators")]
    assert report(session, None)["placement"] is None
