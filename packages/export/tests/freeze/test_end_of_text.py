"""Which tokens end a text: a warning if tokenizer and configs differ, and `eos` sets them in all files at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_export.freeze import end_of_text
from gpt2_export.freeze.freeze import freeze
from gpt2_export.freeze.tokenizer_files import Made
from gpt2_model import GPT2, ConfigError, GPT2Config
from gpt2_model.checkpoint import open_checkpoint
from tokenizers import ByteLevelBPETokenizer

END, IM_END = "<|endoftext|>", "<|im_end|>"


@pytest.fixture
def source(make_checkpoint: Callable[..., Path], vocabulary: Path) -> Path:
    """A fine-tune whose tokenizer ends texts with <|im_end|>, id 300, while its config says 299."""
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=302, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    folder = make_checkpoint(model=model, config={"eos_token_id": 299, "bos_token_id": 299})
    whole = ByteLevelBPETokenizer(str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"))
    whole.add_special_tokens([END, IM_END])
    whole.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": IM_END}))
    return folder


def stops(folder: Path) -> list[Any]:
    """The end of text in each of the files."""
    ends = [
        json.loads((folder / name).read_text())["eos_token_id"] for name in ("config.json", "generation_config.json")
    ]
    return [*ends, json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"]]


def test_a_tokenizer_that_ends_texts_differently_raises_a_warning(source: Path, tmp_path: Path) -> None:
    warnings = freeze(open_checkpoint(source), tmp_path)
    expected = (
        "the tokenizer ends texts with '<|im_end|>' (300), but generation_config.json has eos_token_id 299: generation "
        "stops at 299 and continues after 300; set eos (--eos 300) to change that"
    )
    assert expected in warnings
    assert stops(tmp_path) == [299, 299, 299]


@pytest.mark.parametrize(
    ("eos", "expected"),
    [
        (["300"], 300),
        ([IM_END], 300),
        ([300], 300),
        ([END], 299),
        ([END, "300"], [299, 300]),
        ([300, IM_END, 0], [300, 0]),
    ],
    ids=str,
)
def test_eos_is_set_in_every_file(
    source: Path, tmp_path: Path, eos: list[int | str], expected: int | list[int]
) -> None:
    warnings = freeze(open_checkpoint(source), tmp_path, eos=eos)
    assert not any("ends texts with" in warning for warning in warnings)
    assert stops(tmp_path) == [expected] * 3


@pytest.mark.parametrize(
    ("eos", "message"),
    [
        ("302", "eos is 302, the model has tokens 0 to 301"),
        (-1, "eos is -1, the model has tokens 0 to 301"),
        ("<|end|>", "eos is '<|end|>', which is not a token of the model"),
        ("", "eos is '', which is not a token"),
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused(
    source: Path, tmp_path: Path, eos: int | str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        freeze(open_checkpoint(source), tmp_path, eos=[eos])
    assert message in str(refused.value)


def test_a_text_needs_a_tokenizer_that_reads_it() -> None:
    with pytest.raises(ConfigError, match="there is no tokenizer to read it; give the token's id"):
        end_of_text.chosen([END], Made(document=None), 300)


@pytest.mark.parametrize(("ids", "warned"), [(300, False), ([299, 300], False), ([], True), (None, True), (299, True)])
def test_only_a_difference_raises_a_warning(ids: Any, warned: bool) -> None:
    document = {"model": {"vocab": {END: 299, IM_END: 300}}}
    made = Made(document=document, named={"eos_token": IM_END})
    caught = end_of_text.warnings(made, ids, "config.json")
    assert len(caught) == warned
    assert not warned or ("stops at no token" in caught[0]) == (ids in ([], None))
    assert end_of_text.warnings(Made(document=document, named={"eos_token": None}), ids, "config.json") == []
