"""The runtime's graph of two operators is the one in its documentation."""

import inspect
import textwrap

import onnx.checker
import onnx.parser
from gpt2_runtime.engine import top_k


def test_the_file_matches_the_documentation() -> None:
    """After a change of the text: GRAPH.write_bytes(model.SerializeToString())."""
    _, text = inspect.cleandoc(str(top_k.__doc__)).split("::\n\n")
    model = onnx.parser.parse_model(textwrap.dedent(text.split("\n\nN rows")[0]))
    onnx.checker.check_model(model, full_check=True)
    assert top_k.GRAPH.read_bytes() == model.SerializeToString()
