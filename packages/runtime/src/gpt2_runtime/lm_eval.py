"""A folder as an lm-eval model: `lm_eval --model gpt2_runtime --model_args folder=FOLDER --tasks ...`.

It gives the results of lm-eval's own `hf` backend on the same folder; the tests of `tox -e interop-transformers`
compare the two. lm-eval's own code encodes contexts and continuations, and splits long texts into windows.

lm-eval finds it by its entry point in the group "lm_eval.models". Releases up to 0.4.13 do not look there; with those,
run `python -m gpt2_runtime.lm_eval`, the same command with the same options. Nothing else imports this module.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

try:
    from lm_eval.api.model import TemplateLM
except ModuleNotFoundError as error:
    problem = f"lm-eval cannot be imported ({error}); pip install 'gpt2-runtime[cpu,lm-eval]'"
    if __name__ == "__main__":
        sys.exit(f"error: {problem}")
    raise ModuleNotFoundError(problem) from error

from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from gpt2_runtime.arguments import check_integer, invalid
from gpt2_runtime.errors import EmptyPromptError, GPT2RuntimeError, PromptTooLongError, SettingError
from gpt2_runtime.sampling.config import SamplingConfig
from gpt2_runtime.scoring.score import log_likelihood, score
from gpt2_runtime.text.generator import TextGenerator
from gpt2_runtime.tokenizer.tokenizer import refusal

log = logging.getLogger(__name__)

MAX_GEN_TOKS = 256  # if a task does not set it; the default of hf
TOP_K = 50  # the default of transformers, and so of hf

# The sampling settings that a task may have, besides until and max_gen_toks.
GENERATION = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
)

Tokens = tuple[tuple[str, str] | None, list[int], list[int]]
"""(context and continuation as text, or None; the context's ids; the continuation's)."""


@register_model("gpt2_runtime")
class RuntimeLM(TemplateLM):
    """A folder opened for lm-eval. Reads one row at a time, and a prefix that rows share only once.

    Args:
        folder: the folder that `gpt2-export make` wrote.
        precision: "fp32", "fp16", "int8" or "int4"; by default the most exact one in the folder.
        provider: as for `Session.open`.
        threads: threads per operator; by default the CPUs that this process may use.
        graph: "serving" or "portable"; by default the faster one that folder and provider support.
        max_length: the context length in tokens; at most, and by default, the model's.
        batch_size: 1, or "auto", which is the same.
        max_batch_size: passed by lm-eval; ignored.
        device: passed by lm-eval; ignored, since its command passes "cuda:0" by default. `provider` decides.

    Raises:
        SettingError: an argument is unknown or out of range.
        GPT2RuntimeError: the folder or the provider is refused.
    """

    def __init__(
        self,
        folder: str | None = None,
        precision: str | None = None,
        provider: str = "cpu",
        threads: int | None = None,
        graph: Any = None,
        max_length: int | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        if unknown:
            known = "folder, precision, provider, threads, graph and max_length"
            raise SettingError(f"model_args has {', '.join(map(repr, unknown))}, must be among {known}")
        if folder is None:
            raise SettingError(
                "model_args has no folder, must name one made by `gpt2-export make SOURCE OUT`: folder=OUT"
            )
        if str(batch_size) not in ("1", "auto"):
            raise invalid("batch_size", batch_size, "must be 1: rows are read one by one")
        generator = TextGenerator.open(
            str(folder), precision=precision, provider=provider, threads=threads, graph=graph
        )
        self._generator, self._session = generator, generator.session
        bundle = self._session.bundle
        if generator.tokenizer is None:
            raise refusal(bundle.folder)
        self._tokenizer = generator.tokenizer
        if not bundle.eos_token_ids:
            raise SettingError(f"{bundle.folder} has no end-of-text token, which lm-eval needs before a text")
        limit = bundle.architecture.n_positions
        self.max_length = limit if max_length is None else max_length
        check_integer("max_length", self.max_length, 2, limit)

    @property
    def eot_token_id(self) -> int:
        return self._session.bundle.eos_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        start = self._session.bundle.bos_token_id
        return self.eot_token_id if start is None else start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """The ids of a text; like lm-eval's default, without those that the tokenizer may add around it."""
        return self._tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))

    def _loglikelihood_tokens(
        self, requests: Sequence[Tokens], disable_tqdm: bool = False, **_: object
    ) -> list[tuple[float, bool]]:
        """For each continuation, its log-probability and whether greedy decoding would generate it."""
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        answers: dict[int, tuple[float, bool]] = {}
        cache, read = self._session.empty_cache(capacity=self.max_length), list[int]()
        # Sorted by ids, rows with a common prefix follow one another.
        order = sorted(range(len(rows)), key=rows.__getitem__)
        for number in tqdm(order, desc="Running loglikelihood requests", disable=disable_tqdm):
            row, (text, _, continuation) = rows[number], requests[number]
            first = len(row) - len(continuation)
            cache = cache.crop(min(_shared(read, row), first - 1))
            scores, cache = score(self._session, row, first=first, cache=cache)
            read = row[:-1]
            answers[number] = log_likelihood(scores), all(token.rank == 1 for token in scores)
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answers[number])
        return [answers[number] for number in range(len(rows))]

    def _row(self, context: list[int], continuation: list[int]) -> list[int]:
        """The ids to read, and the last one, which is only scored: at most one more than the context length."""
        if not continuation:
            raise EmptyPromptError("continuation has 0 tokens, must have at least 1; change the task's texts")
        if len(continuation) > self.max_length:
            problem = f"continuation has {len(continuation)} tokens, the model reads {self.max_length}"
            raise PromptTooLongError(f"{problem}; shorten it, or score it with a rolling task")
        row = context + continuation
        if len(row) > self.max_length + 1:
            log.warning("truncating a context of %d tokens on the left to fit the model", len(context))
        return row[-(self.max_length + 1) :]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text after the end-of-text token, in windows that do not overlap."""
        totals = []
        for request in tqdm(requests, desc="Running loglikelihood_rolling requests", disable=disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            rows: list[Tokens] = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(answer for answer, _ in self._loglikelihood_tokens(rows, disable_tqdm=True)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continues each context up to one of its stop strings, which is not part of the answer."""
        answers = []
        for request in tqdm(requests, desc="Running generate_until requests", disable=disable_tqdm):
            context, kwargs = request.args
            answers.append(self._generated(context, kwargs))
            self.cache_hook.add_partial("generate_until", (context, kwargs), answers[-1])
        return answers

    def _generated(self, context: str, kwargs: Mapping[str, Any]) -> str:
        settings: dict[str, Any] = dict(normalize_gen_kwargs(dict(kwargs), MAX_GEN_TOKS))
        end = self._tokenizer.decode([self.eot_token_id])
        until = handle_stop_sequences(settings.pop("until"), eos=end)
        new = settings.pop("max_gen_toks")
        if not 0 < new < self.max_length:
            raise SettingError(
                f"max_gen_toks is {new}, must be from 1 to {self.max_length - 1}: the model reads no more"
            )
        sampling = _sampling(settings)
        completion = self._generator.complete(
            (self.tok_encode(context) or [self.prefix_token_id])[-(self.max_length - new) :],
            max_new_tokens=new,
            sampling=sampling,
            # lm-eval's --seed seeds numpy's generator, so the same seed gives the same texts.
            seed=int(np.random.randint(2**31)) if sampling.temperature else 0,
            stop=until,
        )
        # If two stop strings overlap, lm-eval's own function decides where the answer ends.
        text: str = postprocess_generated_text(
            generation=self._tokenizer.decode(self._plain(completion.token_ids)), stop=until, think_end_token=None
        )
        return text

    def _plain(self, ids: Sequence[int]) -> Iterator[int]:
        """The ids without special tokens, which hf drops from its answers."""
        special = {token.id for token in self._tokenizer.vocabulary.added if token.special}
        return (id_ for id_ in ids if id_ not in special)


def _sampling(settings: Mapping[str, Any]) -> SamplingConfig:
    """A task's generation_kwargs as hf reads them: with transformers' names, and 0 for none."""
    if unknown := [name for name in settings if name not in GENERATION]:
        problem = f"generation_kwargs has {', '.join(map(repr, unknown))}"
        raise SettingError(f"{problem}, must be among until, max_gen_toks, {', '.join(GENERATION)}")
    sampling = {name: value for name, value in settings.items() if name != "do_sample"}
    sampling["top_k"] = sampling.get("top_k", TOP_K) or None
    sampling["no_repeat_ngram_size"] = sampling.get("no_repeat_ngram_size") or None
    sampling["temperature"] = sampling.get("temperature", 0.0) if settings["do_sample"] else 0.0
    if settings["do_sample"] and not sampling["temperature"]:
        raise SettingError(f"temperature is {sampling['temperature']} where do_sample is true, must be above 0")
    return SamplingConfig(**sampling)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common prefix.

    >>> _shared([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def main() -> None:
    """lm-eval's command, with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except GPT2RuntimeError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
