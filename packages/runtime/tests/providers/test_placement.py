from dataclasses import replace
from types import SimpleNamespace

import onnxruntime
import pytest
from gpt2_runtime import Session, TextGenerator
from gpt2_runtime.diagnostics.inspection import lines, report
from gpt2_runtime.engine.top_k import GRAPH
from gpt2_runtime.errors import ProviderError
from gpt2_runtime.explain.explainer import Explainer
from gpt2_runtime.graphs import inference
from gpt2_runtime.graphs.inference import open_inference
from gpt2_runtime.precisions import PRECISIONS
from gpt2_runtime.providers.placement import MOST_SIZES, Placement, placed
from gpt2_runtime.providers.provider import ALL_GRAPHS, HOST, Provider
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


@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_on_the_cpu_everything_is_on_the_cpu(folder, graph):
    session = Session.open(folder, threads=1, graph=graph)
    assert session.opened.inference.get_providers() == ["CPUExecutionProvider"]
    assert session.placement.provider >= 29
    assert session.placement.cpu == {}


def test_an_onnxruntime_that_reports_nothing_has_nowhere_else_to_run_what_is_the_cpus():
    assert placed(SimpleNamespace(), PROVIDERS["cpu"], 2) == Placement(provider=None, cpu={})


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
    with pytest.raises(ProviderError, match=rf"cuda would leave operators to the CPU: {named}; .*provider='cpu'"):
        placed(Inference({"Add": 3}, cpu), CUDA, 2)


def test_a_session_that_reports_nothing_is_refused():
    with pytest.raises(ProviderError, match="would leave operators to the CPU: all"):
        placed(Inference({}, {}), CUDA, 2)
    with pytest.raises(ProviderError, match=r"needs onnxruntime-gpu 1\.24 or newer"):
        placed(SimpleNamespace(), CUDA, 2)


@pytest.fixture
def idle(monkeypatch):
    """A provider with tensors on the host, as onnxruntime has it in every wheel: it starts, and takes no operator."""
    execution_provider = "AzureExecutionProvider"
    if execution_provider not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built without it")
    row = Provider(
        name="idle", execution_provider=execution_provider, package="onnxruntime", tensors=HOST, graphs=ALL_GRAPHS
    )
    monkeypatch.setitem(PROVIDERS, "idle", row)
    return row


@pytest.mark.parametrize("graph", ["serving", "portable"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_provider_on_the_host_that_leaves_its_work_to_the_cpu_is_refused(folder, idle, precision, graph):
    """It would give the right numbers, and nothing would say whose they are."""
    with pytest.raises(ProviderError) as refusal:
        Session.open(folder, provider="idle", precision=precision, graph=graph, threads=1)
    complaint = str(refusal.value)
    assert complaint.startswith("provider idle would leave operators to the CPU: ")
    assert "LayerNormalization (" in complaint
    assert "\n" not in complaint


def test_a_provider_on_the_host_that_leaves_a_part_of_its_work_to_the_cpu_is_refused():
    part = Provider(
        name="part", execution_provider="CUDAExecutionProvider", package="x", tensors=HOST, graphs=ALL_GRAPHS
    )
    with pytest.raises(ProviderError, match=r"provider part would leave operators to the CPU: FastGelu \(2\); "):
        placed(Inference({"MatMul": 8}, {"FastGelu": 2, "Shape": 1}), part, 2)


@pytest.mark.usefixtures("idle")
def test_it_is_refused_on_every_road_to_a_graph(folder):
    with pytest.raises(ProviderError, match="provider idle would leave operators to the CPU"):
        Explainer.open(folder, provider="idle")
    with pytest.raises(ProviderError, match="provider idle would leave operators to the CPU"):
        TextGenerator.open(folder, provider="idle", prepack=False)
    with pytest.raises(ProviderError, match=r"provider idle would leave .*: ReduceSum \(1\), TopK \(1\);"):
        open_inference(GRAPH, PROVIDERS["idle"], 1, True)


def test_what_a_row_leaves_to_the_cpu_is_listed(idle):
    lenient = replace(idle, left_to_cpu=frozenset({"ReduceSum", "TopK"}))
    inference = open_inference(GRAPH, lenient, 1, True)
    assert placed(inference, lenient, 0) == Placement(provider=0, cpu={"ReduceSum": 1, "TopK": 1})


def test_a_graph_is_asked_again_when_its_weights_are_packed(folder, monkeypatch):
    asked = []
    session = Session.open(folder, threads=1, prepack=False)
    monkeypatch.setattr(inference, "placed", lambda opened, *_, **__: asked.append(opened))
    session.step([[5] * 20], session.empty_cache())
    session.step([[5] * 20], session.empty_cache())
    assert asked == [session.opened.inference]


def test_inspect_shows_where_operators_are(session):
    assert f"operators   {session.placement.provider}, all on the CPU" in lines(session, None)
    uncounted = replace(session, placement=Placement(provider=None, cpu={}))
    assert "operators   all on the CPU" in lines(uncounted, None)
    on_gpu = replace(session, provider=CUDA, placement=Placement(provider=80, cpu={"Concat": 3, "Sub": 1}))
    line = "operators   80 on the provider; on the CPU of sizes alone: Concat (3), Sub (1)"
    assert line in lines(on_gpu, None)
    assert report(on_gpu, None)["placement"] == {"provider": 80, "cpu": {"Concat": 3, "Sub": 1}}
    nothing = replace(session, provider=CUDA, placement=Placement(provider=56, cpu={}))
    assert "operators   56 on the provider; on the CPU none" in lines(nothing, None)
