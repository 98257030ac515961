"""The network is written from scratch: no ready-made transformer occurs in the package's syntax trees."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import gpt2_model
import pytest

# transformers.js_config is a field of config.json, not a module.
FORBIDDEN = re.compile(
    r"(.*\.)?(Transformer\w*|MultiheadAttention|scaled_dot_product_attention|transformers(?!\.js_config))(\..*)?"
)
FILES = sorted(Path(gpt2_model.__file__).parent.rglob("*.py"))


def names(tree: ast.AST) -> Iterator[str]:
    """Every name by which code can reach something, whole strings included, for getattr and import_module."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                yield name
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases):
                yield from (f"{module}.{alias.name}" for alias in aliases)


def forbidden(code: str) -> list[str]:
    return [name for name in names(ast.parse(code)) if FORBIDDEN.fullmatch(name)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_uses_a_ready_made_transformer(file: Path) -> None:
    assert forbidden(file.read_text(encoding="utf-8")) == []


def test_every_folder_of_the_package_is_read() -> None:
    assert {file.stem for file in FILES} >= {"config", "gpt2", "weights", "checkpoint", "generate", "errors"}


@pytest.mark.parametrize(
    "code",
    [
        "nn.Transformer(8)",
        "torch.nn.TransformerEncoderLayer(8, 2)",
        "from torch.nn import TransformerDecoder as D",
        "nn.MultiheadAttention(8, 2)",
        "from torch.nn.modules.activation import MultiheadAttention",
        "F.scaled_dot_product_attention(q, k, v)",
        "from torch.nn.functional import scaled_dot_product_attention as attend",
        "getattr(F, 'scaled_dot_product_attention')",
        "import transformers",
        "import transformers.models.gpt2 as hf",
        "from transformers import GPT2LMHeadModel",
        "from transformers.models import gpt2",
        "importlib.import_module('transformers')",
        "def f():\n    from transformers import pipeline",
    ],
)
def test_each_way_of_using_one_is_recognised(code: str) -> None:
    assert forbidden(code)


@pytest.mark.parametrize(
    "code",
    [
        '"""As transformers does it."""',
        "x.transform()",
        "{'transformers_version': 5}",
        "nn.Linear(3, 4)",
    ],
)
def test_prose_and_similar_names_are_allowed(code: str) -> None:
    assert not forbidden(code)
