"""Checks a folder's graph against the export's own before onnxruntime opens it.

A graph is a program: an untrusted one may loop forever, hold constants of any size, or call non-ONNX operators.
"""

from pathlib import Path

import onnx
import onnx_ir as ir
from gpt2_model import GPT2Config

from gpt2_export.errors import GraphError
from gpt2_export.graphs import export
from gpt2_export.graphs.export import Kind

DOMAINS = {"", "ai.onnx", "com.microsoft"}
REMEDY = "export it again with `gpt2-export onnx`"
GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
LONGEST_LIST = 1000  # of an attribute; our longest has one number per axis
LONGEST_TEXT = 1000


def admit(path: Path, kind: Kind, config: GPT2Config, weights: str) -> None:
    """Raises GraphError if gpt2-export could not have made this float32 graph for this network.

    Args:
        path: the graph.
        kind: the kind it should be.
        config: the network's, already checked against its weights.
        weights: the name of the only other file that it may read.
    """
    proto = export.load(path)
    try:
        _refuse_strange(proto, weights)
        with export.quiet("onnx_ir"):  # it warns about dangling names
            model = ir.from_proto(proto)
        export.check_contract(model, kind, config)
    except GraphError as error:
        raise GraphError(f"{path}: {error}; {REMEDY}") from error
    except Exception as error:  # the library may raise anything on a damaged graph
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise GraphError(f"{path} is damaged: {reason[:300]}; {REMEDY}") from error


def _refuse_strange(proto: onnx.ModelProto, weights: str) -> None:
    parts = {
        "functions": proto.functions,
        "training": proto.training_info,
        "sparse weights": proto.graph.sparse_initializer,
        "quantization annotations": proto.graph.quantization_annotation,
    }
    if strange := [name for name, items in parts.items() if len(items)]:
        raise GraphError(f"the graph has {', '.join(strange)}, which export never makes")
    if strange := sorted({opset.domain for opset in proto.opset_import} - DOMAINS):
        raise GraphError(f"the graph needs operators of {strange[0][:100]!a}, which export never makes")
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.type in GRAPHS or attribute.ref_attr_name:
                raise GraphError(f"the graph has a {node.op_type[:100]} with a graph inside, which export never makes")
            longest = max(map(len, (attribute.ints, attribute.floats, attribute.strings, attribute.tensors)))
            if longest > LONGEST_LIST or len(attribute.s) > LONGEST_TEXT:
                raise GraphError(f"the graph has a {node.op_type[:100]} whose {attribute.name[:100]} is too long")
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != weights:
                raise GraphError(f"the graph reads {entry.value[:100]!a}, it may read only {weights}")
