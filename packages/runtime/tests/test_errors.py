"""How a refused value is shown: on one line, whatever it is."""

import numpy as np
import pytest
from gpt2_runtime import SamplingConfig, Session, Tokenizer, generate
from gpt2_runtime.batch_file.line import Defaults, read
from gpt2_runtime.errors import MOST_SHOWN, GPT2RuntimeError, SettingError, shown


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("a  b\n", r"'a  b\n'"),
        (np.eye(2), "array([[1., 0.], [0., 1.]])"),
        (10**5000, "int that is too long to show"),
        (nested(100_000), "list that is too long to show"),
        ("\ud800", r"'\ud800'"),
    ],
    ids=["text", "array", "number", "nested", "surrogate"],
)
def test_a_value_is_one_line(value, complaint):
    assert shown(value) == complaint


def test_a_long_value_is_cut():
    assert len(shown("x" * 10**6)) == MOST_SHOWN


@pytest.mark.parametrize("value", [10**5000, np.eye(9), "x" * 10**6], ids=["number", "array", "text"])
def test_a_refusal_shows_its_value_so(value):
    with pytest.raises(SettingError) as refused:
        SamplingConfig(min_p=value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\x1b[31mb", "a\u2028b", "x" * 5000, "\n" * 5000])
def test_a_folder_of_any_name_is_refused_in_one_short_line(name):
    for call in (Session.open, Tokenizer.open):
        with pytest.raises(GPT2RuntimeError) as refusal:
            call(name)
        complaint = str(refusal.value)
        assert complaint.isprintable()
        assert len(complaint) < 1000
    assert str(SettingError("Zoë 你好, as it is")) == "Zoë 你好, as it is"


def test_each_class_says_what_the_value_the_limit_and_the_remedy(session, tmp_path):
    def of(call):
        with pytest.raises(GPT2RuntimeError) as refusal:
            call()
        error = refusal.value
        return type(error).__name__, error.parameter, str(error)

    assert of(lambda: SamplingConfig(top_k=0)) == (
        "SettingError",
        "top_k",
        "top_k is 0, must be an integer of at least 1; leave it out to keep all tokens",
    )
    assert of(lambda: generate(session, None)) == (
        "PromptError",
        "prompt_ids",
        "prompt_ids is None, must be a list of token ids: [5, 6]",
    )
    assert of(lambda: generate(session, [])) == (
        "EmptyPromptError",
        "prompt_ids",
        "prompt has 0 tokens, must have at least 1; start from the end-of-text token, id 299",
    )
    assert of(lambda: generate(session, [5] * 65)) == (
        "PromptTooLongError",
        "prompt_ids",
        "prompt has 65 tokens, the model reads 64; shorten it or pass overflow='truncate'",
    )
    assert of(lambda: generate(session, [300])) == (
        "TokenIdError",
        "ids",
        "token id is 300, must be from 0 to 299",
    )
    assert of(lambda: Session.open(session.bundle, provider="tpu"))[:2] == ("ProviderError", "provider")
    assert of(lambda: session.step([[5] * 65], session.empty_cache())) == (
        "ContextFullError",
        None,
        "row 0 needs 65 positions, the cache has 64, the model 64; roll the cache back or start a new one",
    )
    assert of(lambda: read(b"[1]", 1, Defaults())) == (
        "JobError",
        None,
        'is an array, must be an object such as {"prompt": "To be"}',
    )
    assert of(lambda: Session.open(tmp_path / "none"))[0] == "BundleError"
