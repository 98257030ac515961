"""What a request refuses, before any model sees it."""

import numpy as np
import pytest
from gpt2_runtime.errors import PromptError, SettingError
from gpt2_runtime.generation.request import Request


@pytest.mark.parametrize(
    "ids",
    [None, 5, "text", b"bytes", {5}, {5: 6}, iter([5]), np.array(5), np.eye(2)],
    ids=lambda ids: type(ids).__name__,
)
def test_a_prompt_that_is_no_list_is_refused(ids):
    with pytest.raises(PromptError) as refused:
        Request(prompt_ids=ids, max_new_tokens=1)
    assert refused.value.parameter == "prompt_ids"
    assert refused.value.value is ids


@pytest.mark.parametrize("ids", [[5, 6], (5,), range(5), np.array([5], np.uint8)], ids=repr)
def test_a_prompt_may_be_any_list(ids):
    assert Request(prompt_ids=ids, max_new_tokens=1).prompt_ids is ids


@pytest.mark.parametrize("overflow", [np.array(["error", "slide"]), None, ["error"], 0], ids=repr)
def test_an_overflow_of_another_type_is_refused(overflow):
    with pytest.raises(SettingError) as refused:
        Request(prompt_ids=[5], max_new_tokens=1, overflow=overflow)
    assert refused.value.parameter == "overflow"
    assert refused.value.value is overflow


@pytest.mark.parametrize("ids", [5, "ab", b"ab", [1.5], [True], [[5]], np.array(5), np.eye(2), ["5"]], ids=repr)
def test_stop_tokens_of_another_type_are_refused(ids):
    with pytest.raises(SettingError) as refused:
        Request(prompt_ids=[5], max_new_tokens=1, stop_token_ids=ids)
    assert refused.value.parameter == "stop_token_ids"
    assert refused.value.value is ids
