"""Precisions join a made folder completely, or the folder is as it was; a wrong argument is one line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from gpt2_export import export_graphs, make, quantize
from gpt2_export.errors import FolderError, PrecisionError, StorageError
from gpt2_export.folder import atomic, inspection, manifest
from gpt2_export.verification import quality
from gpt2_export.verification.eval_texts import OWN
from gpt2_model import GPT2

Run = Callable[..., Result]
INT8 = ["--precision", "int8", "--max-ppl-increase", "1000"]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_make_with_precisions_is_make_and_quantize(source: Path, made_copy: Path, tmp_path: Path) -> None:
    whole = make(source, tmp_path / "whole", precision=["fp32", "int8"], max_ppl_increase=1000)
    later = quantize(made_copy, ["int8"], max_ppl_increase=1000)
    weights = "model_int8.safetensors"
    assert whole.files.keys() == later.files.keys()
    assert whole.files[weights] == later.files[weights]
    assert whole.graphs == later.graphs != {}
    assert whole.quality == later.quality
    assert whole.parity == later.parity
    assert contents(tmp_path / "whole").keys() == whole.files.keys() | {"manifest.json"}


def test_make_with_a_refused_precision_makes_nothing(run: Run, source: Path, tmp_path: Path) -> None:
    ran = run("make", source, tmp_path / "out", "--precision", "fp32,int4", "--max-ppl-increase", "0")
    assert ran.exit_code == 1
    lines = ran.stderr.splitlines()
    assert lines[-1].startswith("error: int4 raises perplexity by ")
    assert "limit 0 %; name the layers that lose most in keep (--keep)" in lines[-1]
    first = lines.index("matrices that lose most, each alone, by KL divergence") + 1
    assert [line.split()[0].startswith(("h.", "wte")) for line in lines[first:-1]] == [True] * 9
    assert list(tmp_path.iterdir()) == []


def test_the_command_reports_the_loss_and_inspect_shows_it(run: Run, made_copy: Path) -> None:
    ran = run("quantize", made_copy, *INT8, "--keep", "h.1")
    assert ran.exit_code == 0, ran.stderr
    assert "\n  kept in float32: h.1\n" in ran.stdout
    shown = run("inspect", made_copy, "--check-hashes").stdout
    for line in ran.stdout.splitlines()[:-1]:
        assert line in shown
    assert "graph       int8 serving, model_serving_int8.onnx" in shown
    assert "MatMulNBits" in shown
    assert "hashes fit" in shown
    assert f"  {OWN}, 24 tokens, " in shown


def test_sizes_are_of_weights_and_graphs(quantized: Path) -> None:
    precisions = inspection.inspect(quantized)["precisions"]
    files = {name: len(content) for name, content in contents(quantized).items()}
    assert precisions["int4"]["bytes"] == sum(
        files[f"model{name}"] for name in ("_q4.safetensors", "_q4.onnx", "_serving_q4.onnx")
    )
    assert precisions["int4"]["of_fp32"] == precisions["int4"]["bytes"] / precisions["fp32"]["bytes"]
    assert list(precisions) == ["fp32", "fp16", "int8", "int4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int2"], "unknown precision 'int2'; expected one of fp32, fp16, int8, int4"),
        (["--precision", "fp32"], "already has fp32; name another precision: fp16, int8, int4"),
        ([*INT8, "--keep", "h.9"], "there is no matrix 'h.9' to keep"),
        ([*INT8, "--eval-text", "nowhere.txt"], "eval_text nowhere.txt does not exist"),
        (
            ["--precision", "int8", "--max-ppl-increase", "-1"],
            "max_ppl_increase is -1.0; it must be a percentage",
        ),
        (["--precision", "int8", "--max-ppl-increase", "nan"], "max_ppl_increase is nan; it must be a percentage"),
    ],
)
def test_a_wrong_argument_is_one_line_and_changes_nothing(
    run: Run, made_copy: Path, options: list[str], message: str
) -> None:
    before = contents(made_copy)
    ran = run("quantize", made_copy, *options)
    assert ran.exit_code == 1
    assert message in ran.stderr.splitlines()[-1]
    assert contents(made_copy) == before


def test_a_folder_that_is_unverified_or_changed_is_refused(made_copy: Path) -> None:
    (made_copy / "config.json").write_bytes((made_copy / "config.json").read_bytes() + b" ")
    with pytest.raises(FolderError, match=r"changed after it was made: config\.json has"):
        quantize(made_copy, ["int8"])
    with pytest.raises(FolderError, match=r"has no manifest\.json"):
        quantize(made_copy.parent, ["int8"])


def test_an_unverified_folder_is_refused_and_a_network_of_other_widths(
    made_copy: Path, make_model: Callable[..., GPT2], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    export_graphs(made_copy)
    with pytest.raises(FolderError, match=r"is not verified, .* run `gpt2-export verify`"):
        quantize(made_copy, ["int8"])
    narrow = make_checkpoint(model=make_model(n_embd=24, n_head=3, n_layer=1))
    with pytest.raises(PrecisionError, match="int4 is not possible: n_embd is 24, not a multiple of 16"):
        make(narrow, tmp_path / "narrow", precision=["int4"])
    assert not (tmp_path / "narrow").exists()


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_a_context_of_one_token_has_no_precision(
    refusal: Callable[..., str],
    make_model: Callable[..., GPT2],
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    precision: str,
) -> None:
    source = make_checkpoint(model=make_model(n_positions=1, n_layer=1))
    assert refusal("make", source, tmp_path / "out", "--precision", precision) == (
        f"{precision} is not possible: n_positions is 1, but the loss of a precision is measured on tokens "
        "that follow others: 2 or more; leave it out"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_position_embedding_is_kept_where_float16_cannot_hold_it(
    run: Run, make_model: Callable[..., GPT2], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_model()
    with torch.no_grad():
        model.wpe.weight[3, 4] = 7e4
    question = ["make", make_checkpoint(model=model), tmp_path / "out", "--precision", "fp16"]
    refused = run(*question).stderr.splitlines()[-1]
    assert refused.endswith("; keep it in float32 with keep (--keep wpe)")
    ran = run(*question, *refused[:-1].replace("(", "").split()[-2:], "--max-ppl-increase", "1000")
    assert ran.exit_code == 0, ran.stderr
    assert "\n  kept in float32: wpe\n" in ran.stdout


def test_a_disk_that_fills_up_leaves_the_folder_as_it_was(made_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(made_copy)
    monkeypatch.setattr("gpt2_export.weights.safetensors_file.write", full)
    with pytest.raises(StorageError, match="no space left for"):
        quantize(made_copy, ["int8"])
    assert contents(made_copy) == before


def test_an_interruption_leaves_the_folder_as_it_was(made_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = contents(made_copy)
    monkeypatch.setattr(quality, "measured", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize(made_copy, ["int8"])
    assert contents(made_copy) == before


def test_an_interruption_at_the_last_moment_leaves_the_folder_as_it_was(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(quantized, tmp_path / "copy"))
    before = contents(folder)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "entries", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize(folder, ["fp16"], keep=["h.0"], max_ppl_increase=1000)
    assert contents(folder) == before


def test_an_option_of_other_precisions_is_refused_without_one(source: Path, tmp_path: Path) -> None:
    for settings in ({"keep": ["h.0"]}, {"max_ppl_increase": 0.0}, {"eval_text": [__file__]}):
        (name,) = settings
        with pytest.raises(PrecisionError, match=f"{name} applies to precisions other than fp32; add one"):
            make(source, tmp_path / "out", **settings)


def test_verifying_again_and_new_graphs_keep_the_measurements(quantized: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(quantized, tmp_path / "copy"))
    before = manifest.read(folder)
    assert export_graphs(folder).quality == before.quality
    assert atomic.refuse_existing(folder, force=True) is None
