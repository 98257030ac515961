"""onnxruntime-genai: greedy tokens of single prompts and of right-padded batches, after a rewind too, where it stops,
tokens of hard texts.
"""

from typing import Any

import numpy as np
import onnxruntime_genai
import pytest

Rows = list[list[int]]


@pytest.fixture(scope="module")
def model(case: Any) -> Any:
    return onnxruntime_genai.Model(str(case.folder))


def generator(model: Any, *, max_length: int, rows: int = 1) -> Any:
    options = onnxruntime_genai.GeneratorParams(model)
    options.set_search_options(do_sample=False, max_length=max_length, batch_size=rows)
    return onnxruntime_genai.Generator(model, options)


def finished(made: Any, rows: int = 1) -> Rows:
    """Each row's tokens once generation is finished."""
    while not made.is_done():
        made.generate_next_token()
    return [made.get_sequence(row).tolist() for row in range(rows)]


def test_single_prompts_are_continued(model: Any, case: Any) -> None:
    for prompt, greedy in zip(case.prompts, case.greedy, strict=True):
        made = generator(model, max_length=len(prompt) + len(greedy))
        made.append_tokens(prompt)
        assert finished(made) == [prompt + greedy]


def test_a_padded_batch_is_continued_as_each_row_alone(model: Any, case: Any) -> None:
    length, count = max(map(len, case.prompts)), len(case.greedy[0])
    padded = [prompt + [case.end] * (length - len(prompt)) for prompt in case.prompts]
    made = generator(model, max_length=length + count, rows=len(padded))
    made.append_tokens(np.array(padded, dtype=np.int32))
    assert [row[length:] for row in finished(made, len(padded))] == case.greedy


def test_a_rewound_prompt_is_continued_again(model: Any, case: Any) -> None:
    """Rewinds to the prompt's end, then to nothing and continues another prompt."""
    (first, second), (after_first, after_second) = case.prompts[1:3], case.greedy[1:3]
    made = generator(model, max_length=len(first) + len(after_first))
    made.append_tokens(first)
    for _ in range(10):
        made.generate_next_token()
    made.rewind_to(len(first))
    assert finished(made) == [first + after_first]
    made.rewind_to(0)
    made.append_tokens(second)
    for _ in after_second:
        made.generate_next_token()
    assert made.get_sequence(0).tolist() == second + after_second


def test_it_stops_at_the_end_of_text(model: Any, case: Any) -> None:
    for row in case.stopped:
        made = generator(model, max_length=50)
        made.append_tokens(row["prompt"])
        assert finished(made) == [row["prompt"] + row["new_ids"][:-1]]  # it leaves the end token out of the sequence


def test_texts_have_the_runtimes_tokens(model: Any, case: Any) -> None:
    tokenizer = onnxruntime_genai.Tokenizer(model)
    for text, tokens in zip(case.texts, case.tokens, strict=True):
        # Its text ends at the first NUL, like a C string.
        assert tokenizer.encode(text).tolist() == ([] if text.startswith("\0") else tokens), text
