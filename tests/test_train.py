"""The training example: its files fit together, and errors are reported before anything is written."""

import json
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner, Result
from tokenizers import Tokenizer

SCRIPT = Path(__file__).parent.parent / "examples" / "train.py"
TEXT = "The quick brown fox jumps over the lazy dog, and then there it lies.\n" * 40
TINY = {
    "--n-positions": 8, "--n-layer": 1, "--n-head": 2, "--n-embd": 8, "--batch-size": 2, "--steps": 2,
    "--evaluate-every": 1,
}  # fmt: skip

Train = Callable[..., Result]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = spec_from_file_location("train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(example: ModuleType, tmp_path: Path) -> Train:
    """Trains on a text, `TEXT` by default, into tmp_path/out; an exception other than an exit code is raised."""

    def train(text: str | bytes = TEXT, **options: object) -> Result:
        (tmp_path / "text.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        settings = TINY | {f"--{name.replace('_', '-')}": value for name, value in options.items()}
        arguments = [str(word) for pair in settings.items() for word in pair]
        result = CliRunner().invoke(example.main, [str(tmp_path / "text.txt"), str(tmp_path / "out"), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return train


def refusal(result: Result) -> str:
    """The message of a run that refused: one line, and nothing before it."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("Error: ")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("vocab_size", [1536, 270], ids=["fewer merges than requested", "all of them"])
def test_all_files_agree_on_the_size_of_the_vocabulary(train: Train, tmp_path: Path, vocab_size: int) -> None:
    result = train(vocab_size=vocab_size)
    out = tmp_path / "out"
    assert result.exit_code == 0, result.output
    config = json.loads((out / "config.json").read_text())
    vocab = json.loads((out / "vocab.json").read_text(encoding="utf-8"))
    whole = Tokenizer.from_file(str(out / "tokenizer.json"))
    size = config["vocab_size"]
    assert sorted(vocab.values()) == list(range(size))
    assert whole.get_vocab() == vocab
    assert vocab["<|endoftext|>"] == whole.token_to_id("<|endoftext|>") == size - 1 == config["eos_token_id"]
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == size - 1
    message = f"the text gives {size} tokens, fewer than --vocab-size, 1536\n"
    assert (size < vocab_size) == (message in result.stdout) == (vocab_size == 1536)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the first 90 % of {text} are 0 tokens, but must be more than --n-positions, 8; use a longer text or"),
        ("short", {}, "the first 90 % of {text} are 4 tokens, but must be more than --n-positions, 8; "),
        (TEXT, {"n_positions": 200}, "the last 10 % of {text} are "),
        (b"\xff\xfe", {}, "{text} is not UTF-8 at byte 0; convert it"),
        (TEXT, {"n_head": 3}, "n_embd is 8, not a multiple of n_head, 3; "),
    ],
    ids=["empty", "shorter than the context", "held-out part shorter", "no text", "no network"],
)
def test_what_cannot_be_trained_is_one_line_and_writes_nothing(
    train: Train, tmp_path: Path, text: str | bytes, options: dict[str, int], message: str
) -> None:
    assert refusal(train(text, **options)).startswith(message.format(text=tmp_path / "text.txt"))
    assert not (tmp_path / "out").exists()


def test_a_part_of_one_window_and_a_token_is_enough_and_one_window_is_not(example: ModuleType) -> None:
    text = Path("x.txt")
    example.refuse_short(text, 8, {"part": torch.zeros(9)})
    with pytest.raises(example.click.ClickException, match=r"the part of x\.txt are 8 tokens, but must be more than"):
        example.refuse_short(text, 8, {"part": torch.zeros(8)})


@pytest.mark.parametrize("option", ["vocab_size", "n_positions", "n_layer", "batch_size", "steps", "evaluate_every"])
def test_a_number_that_is_too_small_is_refused_by_name(train: Train, tmp_path: Path, option: str) -> None:
    result = train(**{option: 0})
    assert result.exit_code != 0
    assert result.stderr.splitlines()[-1].startswith(("Error: Invalid value for '--", f"Error: {option} is 0; it must"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT * 2, {}, "is from another text; remove it to start over, or choose another OUT"),
        (TEXT, {"n_embd": 16}, "was made with --n-embd 8, not 16; use that, remove it to start over, or choose"),
        (TEXT, {"vocab_size": 300, "seed": 2}, "was made with --vocab-size 1536, not 300, --seed 1, not 2; "),
    ],
    ids=["text", "size", "settings that no shape shows"],
)
def test_a_state_of_another_run_is_refused_and_out_stays_as_it_was(
    train: Train, tmp_path: Path, text: str, options: dict[str, int], message: str
) -> None:
    assert train().exit_code == 0
    before = contents(tmp_path / "out")
    assert refusal(train(text, **options)).startswith(f"{tmp_path / 'out' / 'state.pt'} {message}")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("state", [b"", b"nonsense", {"step": 1}], ids=["empty", "nonsense", "of an earlier version"])
def test_a_state_that_cannot_be_read_is_refused(train: Train, tmp_path: Path, state: bytes | dict[str, int]) -> None:
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "state.pt"
    file.write_bytes(state) if isinstance(state, bytes) else torch.save(state, file)
    assert refusal(train()).startswith(f"{file} is damaged, or was not written by this version; remove it")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["state.pt"]


def test_the_same_command_resumes_and_gives_the_same_weights(
    train: Train, example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(steps=4).exit_code == 0
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    (tmp_path / "out").rename(tmp_path / "straight")
    right, states = example.save_state, []

    def interrupted(*arguments: object) -> None:
        right(*arguments)
        states.append(arguments)
        if len(states) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(example, "save_state", interrupted)
    assert train(steps=4).exit_code == 1
    monkeypatch.setattr(example, "save_state", right)
    assert "resuming at step 2\n" in train(steps=4).stdout
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
