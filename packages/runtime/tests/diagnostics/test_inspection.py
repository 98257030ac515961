import json
from dataclasses import replace

import pytest
from gpt2_runtime import Tokenizer
from gpt2_runtime.diagnostics.inspection import lines, report
from gpt2_runtime.precisions import PRECISIONS


def test_a_report_is_json_and_holds_what_the_folder_does(session, folder):
    actual = json.loads(json.dumps(report(session, Tokenizer.open(folder))))
    assert actual["source"] == {"name": "tiny", "revision": None}
    assert actual["architecture"] == {"vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    assert actual["tokenizer"]["added"] == {"<|endoftext|>": 299}
    assert actual["files"]["model.onnx"]["bytes"] == (folder / "model.onnx").stat().st_size
    assert actual["inputs"][0] == {
        "name": "input_ids",
        "type": "tensor(int64)",
        "shape": ["batch_size", "sequence_length"],
    }
    assert len(actual["inputs"]) == 9
    assert [output["name"] for output in actual["outputs"]][:2] == ["logits", "present.0.key"]
    assert (actual["provider"], actual["threads"]) == ("CPUExecutionProvider", 1)
    assert actual["parity"]["tolerance"] == session.bundle.parity["tolerance"] >= 1e-4


def test_lines_are_for_people(session, folder):
    text = "\n".join(lines(session, Tokenizer.open(folder)))
    assert "model       2 layers, 4 heads, width 32, 64 positions, 300 tokens" in text
    assert "past_key_values.0-1.key" in text  # one line for all layers
    assert "past_key_values.1" not in text
    assert "max logit difference" in text
    assert "<|endoftext|> = 299" in text


def test_what_a_manifest_says_stays_on_its_line(session):
    source = replace(session.bundle.source, name="gpt2\nparity  verified \x1b[2J")
    output = list(lines(replace(session, bundle=replace(session.bundle, source=source)), None))
    assert output[0].startswith(r"source      gpt2\nparity  verified \x1b[2J, revision")


def parity_lines(session, parity):
    output = list(lines(replace(session, bundle=replace(session.bundle, parity=parity)), None))
    return [line.strip() for line in output[output.index("parity") + 1 :]]


def test_the_limit_of_the_explaining_graph_is_not_the_folders(session):
    flat = {"max_logit_difference": 2e-5, "tolerance": 5e-4}
    first, *rest = parity_lines(session, {"tolerance": 2.4e-4, "backends": {}, "explaining": flat})
    assert first.split() == ["limit", "0.00024"]
    assert [" ".join(line.split()) for line in rest] == ["explaining max logit difference 2e-05, limit 0.0005"]


def test_each_part_has_its_error_that_of_torchs_float32_and_the_limit(session):
    part = {"max_difference": 2e-5, "float32_error": 1e-5, "tolerance": 1e-4}
    backend = {"max_logit_difference": 3e-5, "worst_case": "a prompt", "greedy_tokens": 64}
    output = parity_lines(
        session,
        {
            "sweep": ["a", "b"],
            "float32_error": 2e-5,
            "tolerance": 2e-4,
            "backends": {"onnxruntime, portable": backend},
            "explaining": {"lens": part},
        },
    )
    assert [" ".join(line.split()) for line in output] == [
        "sweep 2 cases",
        "error of torch's float32 2e-05",
        "limit 0.0002",
        "onnxruntime, portable max logit difference 3e-05, greedy tokens 64",
        "explaining, lens max difference 2e-05, error of torch's float32 1e-05, limit 0.0001",
    ]


@pytest.mark.parametrize(
    "value", [10**400, 10**5000, [], {}, {"a": 10**400}, None, True, "x", {"a": {"b": 10**400}}], ids=type
)
def test_whatever_a_parity_holds_is_shown_on_its_line(session, value):
    for parity in ({"tolerance": value}, {"backends": value}, {"backends": {"a": value}}):
        output = parity_lines(session, parity)
        assert all(len(line) < 200 for line in output)


def test_a_folder_without_tokenizer_and_parity_says_so(session):
    bare = replace(session, bundle=replace(session.bundle, parity=None, eos_token_ids=()))
    text = "\n".join(lines(bare, None))
    assert "token ids only: " in text
    assert "stops at    no token" in text
    assert report(bare, None)["parity"] is None


def test_it_says_what_equals_what(session):
    actual = list(lines(session, None))
    start = actual.index("equal results")
    assert actual[start + 1].split() == list(PRECISIONS)
    (lookup,) = (line for line in actual if "with prompt lookup; without" in line)
    assert lookup.split()[-4:] == ["text", "text", "bits", "bits"]
    assert report(session, None)["equalities"]["lookup"] == "text"
