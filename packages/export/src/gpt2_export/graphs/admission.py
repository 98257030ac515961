"""A graph that lies in a folder is read and held to what is made here before onnxruntime opens it.

A graph is a program: one from elsewhere may loop without end, hold constants of any size, or call what is not ONNX's.
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
LONGEST_LIST = 1000  # of an attribute; the largest of ours has one number an axis
LONGEST_TEXT = 1000


def admit(path: Path, kind: Kind, config: GPT2Config, weights: str) -> None:
    """Raises GraphError where a float32 graph is none that could have been made here for this network.

    Args:
        path: of the graph.
        kind: that it should be of.
        config: of the network, held to its weights already.
        weights: the name of the only other file that it may read.
    """
    proto = export.load(path)
    try:
        _refuse_strange(proto, weights)
        with export.quiet("onnx_ir"):  # which remarks on names that lead nowhere
            model = ir.from_proto(proto)
        export.check_contract(model, kind, config)
    except GraphError as error:
        raise GraphError(f"{path}: {error}; {REMEDY}") from error
    except Exception as error:  # the library raises whatever a damaged graph leads it to
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise GraphError(f"{path} is damaged: {told[:300]}; {REMEDY}") from error


def _refuse_strange(proto: onnx.ModelProto, weights: str) -> None:
    parts = {
        "functions": proto.functions,
        "training": proto.training_info,
        "sparse weights": proto.graph.sparse_initializer,
        "quantization annotations": proto.graph.quantization_annotation,
    }
    if strange := [name for name, held in parts.items() if len(held)]:
        raise GraphError(f"the graph has {', '.join(strange)}, which none is made with")
    if strange := sorted({opset.domain for opset in proto.opset_import} - DOMAINS):
        raise GraphError(f"the graph needs operators of {strange[0][:100]!a}, which none is made with")
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.type in GRAPHS or attribute.ref_attr_name:
                raise GraphError(f"the graph has a {node.op_type[:100]} with a graph inside, which none is made with")
            longest = max(map(len, (attribute.ints, attribute.floats, attribute.strings, attribute.tensors)))
            if longest > LONGEST_LIST or len(attribute.s) > LONGEST_TEXT:
                raise GraphError(f"the graph has a {node.op_type[:100]} whose {attribute.name[:100]} is too long")
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != weights:
                raise GraphError(f"the graph reads {entry.value[:100]!a}, it may read only {weights}")
