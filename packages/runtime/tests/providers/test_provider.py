"""What a row says, and that the rest of the package asks the row instead of knowing the provider by its name."""

import ast
from importlib import metadata
from pathlib import Path
from typing import get_args

import gpt2_runtime
import onnxruntime
import pytest
from gpt2_runtime.errors import SettingError
from gpt2_runtime.graphs.graph_choice import capturing, check_graph
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.precisions import PRECISIONS
from gpt2_runtime.providers.provider import HOST
from gpt2_runtime.providers.providers import PROVIDERS, ROWS, provider_of

SOURCE = Path(gpt2_runtime.__file__).parent
NAMES = {word for row in ROWS for word in (row.name, row.execution_provider, row.tensors.device)}


def named(source: str) -> list[int]:
    """The lines of a program that know a provider or a device by its name; to have one by default is no knowledge.

    >>> named("def open(provider='cpu'): return 'cpu' == provider")
    [1]
    """
    tree = ast.parse(source)
    defaults = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            defaults.update(node.defaults, node.kw_defaults)
        elif (isinstance(node, ast.keyword) and node.arg == "default") or isinstance(node, ast.AnnAssign):
            defaults.add(node.value)
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in defaults)
    return [node.lineno for node in constants if node.value in NAMES]


def test_no_provider_is_known_by_its_name_outside_the_room():
    files = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != "providers"]
    assert len(files) > 60
    found = {str(path.relative_to(SOURCE)): named(path.read_text(encoding="utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "provider.device == 'cpu'",
        "'cuda' != provider.name",
        "name in ('cpu', 'x')",
        "SIZES = {'cuda': 3}",
        "report.provider != 'CPUExecutionProvider'",
        "match device:\n    case 'cpu': pass",
        "tensor.device_name() == 'cuda'",
    ],
)
def test_a_name_outside_the_room_is_seen(source):
    assert named(source)


def test_the_rows_name_what_there_is():
    assert list(PROVIDERS) == [row.name for row in ROWS]
    for row in ROWS:
        assert provider_of(row.execution_provider) is row
        assert set(row.graphs) <= set(get_args(GraphKind))
        assert {each for precisions in row.graphs.values() for each in precisions} <= set(PRECISIONS)
        assert set(row.evenly) <= set(PRECISIONS)
        assert row.tensors.on_host == (row.tensors == HOST)


def test_each_row_has_its_extra():
    extras = metadata.metadata("gpt2-runtime").get_all("Provides-Extra") or []
    requires = metadata.requires("gpt2-runtime") or []
    for row in ROWS:
        assert row.name in extras
        assert any(each.startswith(row.package) and f"extra == '{row.name}'" in each for each in requires)


def test_a_tensor_is_held_by_the_memory_it_lives_in():
    tensor = onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], "float32", "cpu")
    assert HOST.holds(tensor)
    assert not PROVIDERS["cuda"].tensors.holds(tensor)


def test_a_step_is_captured_where_a_row_says_how():
    captured = capturing(PROVIDERS["cuda"], "serving")
    assert captured.options == {"use_tf32": "0", "enable_cuda_graph": "1"}
    assert PROVIDERS["cuda"].options == {"use_tf32": "0"}
    with pytest.raises(SettingError, match="not the portable one on cuda"):
        capturing(PROVIDERS["cuda"], "portable")


def test_a_graph_that_a_row_does_not_have_is_refused_with_what_it_has():
    check_graph(PROVIDERS["cuda"], "serving", "fp16")
    with pytest.raises(SettingError) as refusal:
        check_graph(PROVIDERS["cuda"], "serving", "int4")
    complaint = "graph is 'serving', which has no int4 kernel on cuda"
    assert str(refusal.value) == f"{complaint}; pass graph='portable' or precision='fp16' or another provider"
