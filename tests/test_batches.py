"""A batch of 64 prompts of 1 to 900 tokens equals 64 single runs; with a known scheduler bug it does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checkpoints import network
from gpt2_export import freeze_checkpoint
from gpt2_export.graphs.serving import SERVING
from gpt2_runtime import (
    GREEDY,
    Completion,
    LookupConfig,
    Prompt,
    SamplingConfig,
    Session,
    TextGenerator,
    Token,
    complete_batch,
    generate,
)
from gpt2_runtime.engine.serving_graph import SharedCache
from gpt2_runtime.generation import prompt_lookup
from gpt2_runtime.generation.prompt_lookup import DraftBudget
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import Scheduler
from gpt2_runtime.sampling.sampler import sample
from gpt2_runtime.text.batch import complete
from trace_cache import add_graphs

PROMPTS = 64
LONGEST = 900
VOCABULARY = 97
SHARED = 200  # tokens that some of the prompts share at their start


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    place = tmp_path_factory.mktemp("batches")
    network(vocab_size=VOCABULARY, n_positions=1024, n_embd=32, n_layer=2, n_head=4).save_pretrained(place / "source")
    freeze_checkpoint(place / "source", place / "folder")
    add_graphs(place / "folder", [SERVING])
    return TextGenerator.open(place / "folder")


def prompts() -> list[Prompt]:
    """Prompts of every length and setting."""
    rng = np.random.default_rng(7)
    head = rng.integers(VOCABULARY, size=SHARED).tolist()
    made = []
    for number, length in enumerate(np.linspace(1, LONGEST, PROMPTS).astype(int).tolist()):
        ids = rng.integers(VOCABULARY, size=length).tolist()
        made.append(
            Prompt(
                prompt=(head + ids)[:length] if number % 3 == 0 else ids,
                settings={
                    "max_new_tokens": 1 + number % 40,
                    "seed": number,
                    "stop_token_ids": (number,),
                    "logprobs": number % 3 or None,
                    "overflow": ("error", "truncate", "slide")[number % 3],
                    "sampling": (
                        GREEDY,
                        SamplingConfig(temperature=0.7, top_k=20),
                        SamplingConfig(top_p=0.8, repetition_penalty=1.3, min_new_tokens=4),
                        SamplingConfig(temperature=2.0, frequency_penalty=0.5, no_repeat_ngram_size=2),
                    )[number % 4],
                },
            )
        )
    rng.shuffle(made)  # type: ignore[arg-type]
    return made


def together(generator: TextGenerator, rows: int, lookup: LookupConfig | None = None) -> list[Completion]:
    results = sorted(complete_batch(generator, prompts(), rows=rows, lookup=lookup), key=lambda result: result.index)
    return [completion for result in results for completion in result.completions]


def differences(generator: TextGenerator, completions: list[Completion]) -> int:
    """The number of completions that differ from a run alone."""
    alone = [generator.complete(prompt.prompt, **prompt.settings) for prompt in prompts()]
    return sum(not same(a, b) for a, b in zip(alone, completions, strict=True))


def same(one: Completion, other: Completion) -> bool:
    """Whether two completions are equal apart from times and reuse."""
    for name in ("token_ids", "prompt_token_ids", "finish_reason", "slides", "truncated"):
        if getattr(one, name) != getattr(other, name):
            return False
    values = [[token.logprob for token in each.logprobs or ()] for each in (one, other)]
    return len(values[0]) == len(values[1]) and np.allclose(*values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_a_batch_equals_single_runs(generator: TextGenerator, rows: int) -> None:
    completions = together(generator, rows)
    assert len({completion.token_ids for completion in completions}) > PROMPTS / 2
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    assert differences(generator, completions) == 0


def test_a_common_beginning_is_read_once_and_changes_no_answer(generator: TextGenerator) -> None:
    sharing = TextGenerator.open(generator.session.bundle.folder, prefix_bytes=2**24)
    completions = together(sharing, 8)
    assert sum(completion.reused for completion in completions) > 10 * SHARED
    assert differences(generator, completions) == 0


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_continuations_of_one_prompt_are_those_of_their_seeds(generator: TextGenerator, rows: int) -> None:
    prompt = list(range(50)) * 10
    settings: dict[str, Any] = {"max_new_tokens": 20, "sampling": SamplingConfig(temperature=0.8)}
    completions = complete(generator, prompt, 10, {**settings, "seed": 3}, rows=rows)
    alone = [generator.complete(prompt, seed=seed, **settings) for seed in range(3, 13)]
    assert [completion.token_ids for completion in completions] == [completion.token_ids for completion in alone]


@pytest.mark.parametrize("chunk", [128, 256])
def test_a_long_prompt_delays_no_row_by_more_than_a_chunk(
    generator: TextGenerator, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each step seven rows get a token, and at most one chunk of a 1,000-token prompt is read."""
    session, rng = generator.session, np.random.default_rng(3)

    def state(length: int, seed: int, lookup: LookupConfig | None = None) -> RequestState:
        sampling = SamplingConfig(temperature=0.8) if seed % 2 else GREEDY
        ids = rng.integers(VOCABULARY, size=length).tolist()
        request = Request(prompt_ids=ids, max_new_tokens=20, sampling=sampling, stop_token_ids=())
        return RequestState(session, request, np.random.default_rng(seed), lookup)

    read: list[list[int]] = []
    step = Session.step_top_k

    def counted(self: Session, ids: Any, *rest: Any) -> Any:
        read.append([len(row) for row in ids])
        return step(self, ids, *rest)

    monkeypatch.setattr(Session, "step_top_k", counted)
    scheduler = Scheduler(session, rows=8, prefill_chunk=chunk)
    running = [state(5 + row, row, LookupConfig() if row % 3 else None) for row in range(7)]
    for each in running:
        scheduler.submit(each)
    scheduler.step()
    joining = state(1000, 7)
    scheduler.submit(joining)
    read.clear()
    steps = 0
    while not joining.new_ids:
        outputs, steps = scheduler.step(), steps + 1
        assert {each for each, event in outputs if isinstance(event, Token)} >= set(running)
    assert [sum(lengths[:7]) for lengths in read] == [7] * steps
    assert max(lengths[7] for lengths in read) <= chunk
    assert sum(lengths[7] for lengths in read) == 1000
    assert steps == -(-1000 // chunk)
    monkeypatch.undo()
    while not scheduler.idle:
        scheduler.step()
    for seed, each in enumerate([*running, joining]):
        settings = {"max_new_tokens": 20, "sampling": each.request.sampling, "stop_token_ids": ()}
        events = generate(session, each.prompt_ids, rng=np.random.default_rng(seed), **settings)
        assert each.new_ids == [event.id for event in events if isinstance(event, Token)]


def test_lookup_in_a_batch_changes_no_text(generator: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts of five tokens whenever there are any, whatever they cost."""
    monkeypatch.setattr(DraftBudget, "draft_tokens", lambda self, most, **_: min(most, 5) if self.tokens else 0)
    completions = together(generator, 8, LookupConfig(min_ngram=1))
    assert sum(completion.timings.draft_tokens for completion in completions) > 100
    assert sum(completion.timings.accepted_tokens for completion in completions) > 10
    assert differences(generator, completions) == 0


def kept_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row continues the previous request's text."""
    crop = SharedCache.crop

    def wrong(self: SharedCache, lengths: Any) -> SharedCache:
        if isinstance(lengths, int):
            return crop(self, lengths)
        return crop(self, [length or min(has, 50) for has, length in zip(self.lengths, lengths, strict=True)])

    monkeypatch.setattr(SharedCache, "crop", wrong)


def one_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests sample from one generator."""
    init, rng = RequestState.__init__, np.random.default_rng(0)
    monkeypatch.setattr(
        RequestState, "__init__", lambda self, session, request, _, *rest: init(self, session, request, rng, *rest)
    )


def one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request's controls see the new tokens of all requests."""
    new: list[int] = []

    def wrong(*args: Any, new_ids: Any, **rest: Any) -> int:
        new.append(sample(*args, new_ids=new, **rest))
        return new[-1]

    monkeypatch.setattr(prompt_lookup, "sample", wrong)


@pytest.mark.parametrize("mistake", [kept_text, one_generator, one_text])
def test_a_scheduler_bug_is_caught(generator: TextGenerator, mistake: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        mistake(monkeypatch)
        completions = together(generator, 8)
    assert differences(generator, completions) > 0
