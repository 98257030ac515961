"""Prompt -> text, streamed or whole: the only place that converts between token ids and text."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast

from gpt2_runtime.arguments import check_integer, check_type, invalid, is_list
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import PromptError, SettingError, TokenizerError, shown
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.folder.sharing import Local, Shared
from gpt2_runtime.generation.config import GenerationConfig, Settings, check_unset, resolve
from gpt2_runtime.generation.events import Event, FinishReason
from gpt2_runtime.generation.generate import generator_of, stream_events
from gpt2_runtime.generation.prefix_cache import PrefixCache, check_prefixes
from gpt2_runtime.generation.prompt_lookup import LookupConfig
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.graphs.graph_file import Load
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.sampling.config import GREEDY, MOST_BAD_IDS
from gpt2_runtime.scoring.score import score_prompt
from gpt2_runtime.text.completion import Completion, Transcript
from gpt2_runtime.tokenizer.tokenizer import Tokenizer, refusal

if TYPE_CHECKING:
    from gpt2_runtime.generation.beam_search import EarlyStopping

MOST_CONTINUATIONS = 1024  # of one prompt: each has its text and a random generator
OF_A_DRAW = ("seed", "stop", "logprobs", "prompt_logprobs")  # settings that a beam search does not have


@dataclass(frozen=True, kw_only=True)
class BeamCompletion:
    """A continuation that a beam search found.

    Attributes:
        text: the new text without the prompt; None if the folder has no tokenizer.
        token_ids: the new tokens, without a stop token.
        score: the log-probability divided by the length to the power of length_penalty.
        finish_reason: "stop" at a stop token, "length" if there was no room left.
    """

    text: str | None
    token_ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class TextGenerator(Shared):
    """The session and the tokenizer of one folder. Threads may share it.

    Pickled to another process, it opens the folder again there, with the same settings and empty prefixes.

    Attributes:
        prefixes: the cache of earlier prompts' starts; None if prefixes are not kept.

    >>> generator = TextGenerator.open(folder)
    >>> completion = generator.complete("To be", max_new_tokens=8, seed=1)
    >>> "".join(generator.stream("To be", max_new_tokens=8, seed=1)) == completion.text
    True
    """

    session: Session
    tokenizer: Tokenizer | None
    prefixes: PrefixCache | None = None

    def __post_init__(self) -> None:
        check_type("session", self.session, Session)
        if self.tokenizer is not None and not isinstance(self.tokenizer, Tokenizer):
            raise invalid("tokenizer", self.tokenizer, "must be a Tokenizer, or None for ids alone")
        check_prefixes(self.prefixes, self.session)

    @classmethod
    def open(
        cls,
        folder: str | Path | Bundle,
        *,
        precision: str | None = None,
        provider: str = "cpu",
        threads: int | None = None,
        graph: GraphKind | None = None,
        prepack: bool = True,
        load: Load = "copy",
        prefix_bytes: int | None = None,
        check_hashes: bool = False,
        cuda_graph: bool = False,
        fast_single: bool = False,
    ) -> TextGenerator:
        """Opens a folder's graph and tokenizer. Without a supported tokenizer it takes only token ids.

        Args:
            folder: the folder that `gpt2-export make` wrote, or its open Bundle.
            precision: "fp32", "fp16", "int8" or "int4"; by default the most exact one in the folder.
            provider: as for `Session.open`.
            threads: how many threads one operator may use; by default what affinity and quota allow this process.
            graph: "serving" or "portable"; by default the faster one that folder and provider support.
            prepack: False if the first token matters more than the next ones; see `Session.open`.
            load: "copy" copies the weights into memory, "map" maps them from their file; see `Session.open`.
            prefix_bytes: how many bytes of prompts' keys and values to keep, so that the shared start of a later prompt
                is not computed again; the text is the same. By default none.
            check_hashes: compare every file's SHA-256 with the manifest.
            cuda_graph: see `Session.open`.
            fast_single: for int8 and int4: faster for a single text, which then depends on its neighbours in a batch;
                see `Session.open`.

        Raises:
            BundleError: the folder is missing, damaged, or does not have the requested precision or graph.
            ProviderError: the provider is not available.
            SettingError: `threads`, `graph`, `load` or `prefix_bytes` is out of range.
        """
        bundle = folder if isinstance(folder, Bundle) else Bundle.open(folder, check_hashes=check_hashes)
        session = Session.open(
            bundle,
            precision=precision,
            provider=provider,
            threads=threads,
            graph=graph,
            prepack=prepack,
            load=load,
            cuda_graph=cuda_graph,
            fast_single=fast_single,
        )
        prefixes = None if prefix_bytes is None else PrefixCache(session, max_bytes=prefix_bytes)
        return cls(session=session, tokenizer=open_tokenizer(bundle), prefixes=prefixes)

    def __reduce__(self) -> tuple[object, ...]:
        prefix_bytes = None if self.prefixes is None else self.prefixes.max_bytes
        return _assembled, (self.session, self.tokenizer, prefix_bytes)

    def stream(
        self, prompt: str | Sequence[int], *, lookup: LookupConfig | None = None, **settings: Unpack[Settings]
    ) -> TextStream:
        """Continues `prompt`; streams the new text in pieces of whole characters.

        Args:
            prompt: text, or token ids.
            lookup: use prompt lookup: the text is the same, but faster if it repeats itself or its prompt.
                `completion.timings` counts the draft tokens, and how many were accepted.
            settings: settings of `GenerationConfig` and `SamplingConfig` by their names; see `GenerationConfig.of`.

        Raises:
            PromptError: the prompt is empty, too long, or invalid for this folder.
            SettingError: a setting is out of range.
            TokenizerError: the prompt is text, and the folder has no supported tokenizer.
        """
        (transcript,) = self.start(prompt, n=1, lookup=lookup, **settings)
        return TextStream(stream_events(self.session, transcript.state, self.prefixes), transcript)

    def complete(
        self, prompt: str | Sequence[int], *, lookup: LookupConfig | None = None, **settings: Unpack[Settings]
    ) -> Completion:
        """Continues `prompt` to the end; takes the settings and raises the errors of `stream`.

        >>> completion = TextGenerator.open(folder).complete("To be", temperature=0.5, max_new_tokens=2)
        >>> completion.text == TextGenerator.open(folder).tokenizer.decode(completion.token_ids)
        True
        """
        stream = self.stream(prompt, lookup=lookup, **settings)
        for _ in stream:
            pass
        return stream.completion

    def search(
        self,
        prompt: str | Sequence[int],
        *,
        num_beams: int,
        n: int = 1,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        **settings: Unpack[Settings],
    ) -> tuple[BeamCompletion, ...]:
        """The likeliest continuations of `prompt` found by a beam search with `num_beams` beams, best first.

        Args:
            prompt: text, or token ids.
            num_beams, length_penalty, early_stopping: see `beam_search`.
            n: how many continuations, at most num_beams.
            settings: as for `stream`; it does not sample, so the temperature must be 0, which is the default here.

        Raises:
            PromptError, SettingError, TokenizerError: as for `stream`; also for a setting that a search does not have.

        >>> best, *_ = TextGenerator.open(folder).search("To be", num_beams=3, n=3, max_new_tokens=8)
        >>> len(best.token_ids), best.finish_reason
        (8, 'length')
        """
        config = resolve({"config": GenerationConfig(sampling=GREEDY), **settings})
        check_unset(config, OF_A_DRAW, "beam search has none", "leave it out")
        (transcript,) = self.start(prompt, n=1, config=config)
        request = transcript.state.request
        from gpt2_runtime.generation.beam_search import beam_search  # 3 ms that other texts need not wait for

        beams = beam_search(
            self.session,
            request.prompt_ids,
            num_beams=num_beams,
            num_return_sequences=n,
            max_new_tokens=request.max_new_tokens,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            sampling=request.sampling,
            stop_token_ids=request.stop_token_ids,
            overflow=request.overflow,
        )
        return tuple(
            BeamCompletion(
                text=self.tokenizer.decode(beam.token_ids) if self.tokenizer else None,
                token_ids=beam.token_ids,
                score=beam.score,
                finish_reason=beam.finish_reason,
            )
            for beam in beams
        )

    def start(
        self,
        prompt: str | Sequence[int],
        *,
        n: int = 1,
        lookup: LookupConfig | None = None,
        **settings: Unpack[Settings],
    ) -> list[Transcript]:
        """What `stream` and a batch start from: `n` continuations of one prompt, before their first step.

        The seed of the second is one more than that of the first, and so on. Errors are those of `stream`.
        """
        config = resolve(settings)
        check_integer("n", n, 1, MOST_CONTINUATIONS, remedy="ask again with another seed for more")
        check_single(prompt)
        if self.tokenizer is None and (config.stop or config.bad_words or isinstance(prompt, str)):
            raise refusal(self.session.bundle.folder)
        if isinstance(prompt, str):
            assert self.tokenizer is not None
            prompt = self.tokenizer.encode(prompt, parse_special=config.parse_special)
        if config.bad_words:
            spelled = self._spelled(config.bad_words)
            sampling = replace(config.sampling, bad_words_ids=(*config.sampling.bad_words_ids, *spelled))
            config = replace(config, sampling=sampling)
        request = Request.with_config(prompt, config)
        seed = secrets.randbits(32) if config.seed is None else config.seed
        seeds = range(seed, seed + n)
        states = [RequestState(self.session, request, generator_of(each), lookup) for each in seeds]
        scores = None
        if config.prompt_logprobs is not None:
            scores = score_prompt(self.session, states[0].prompt_ids, top=config.prompt_logprobs)
        return [
            Transcript(state, each, self.tokenizer, config.stop, scores)
            for state, each in zip(states, seeds, strict=True)
        ]

    def _spelled(self, words: Sequence[str]) -> list[list[int]]:
        """The token ids of each word, as it is and after a space."""
        assert self.tokenizer is not None
        forms = (form for word in words for form in (word, f" {word}"))
        spelled = [self.tokenizer.encode(form, parse_special=False, add_special_tokens=False) for form in forms]
        if (count := sum(map(len, spelled))) > MOST_BAD_IDS:
            problem = (
                f"bad_words have {count:,} tokens, as they are and after a space, must have at most {MOST_BAD_IDS:,}"
            )
            raise SettingError(f"{problem}; leave some out", parameter="bad_words", value=words)
        return spelled


def check_single(prompt: object) -> None:
    """PromptError for several texts in place of one."""
    if is_list(prompt) and any(isinstance(each, str) for each in cast(Sequence[object], prompt)):
        problem = f"prompt is {shown(prompt)}, must be one text or its token ids; use complete_batch for several"
        raise PromptError(problem, parameter="prompt", value=prompt)


def _assembled(session: Session, tokenizer: Tokenizer | None, prefix_bytes: int | None) -> TextGenerator:
    """What another process sent."""
    prefixes = None if prefix_bytes is None else PrefixCache(session, max_bytes=prefix_bytes)
    return TextGenerator(session=session, tokenizer=tokenizer, prefixes=prefixes)


class TextStream(Local):
    """An iterator over pieces of new text, none of them empty, which knows its `completion` once it has ended.

    Made by `TextGenerator.stream`. Of a folder without tokenizer it yields no piece, only the completion's ids.
    """

    remedy = "send its completion, or the generator"

    def __init__(self, events: Iterator[Event], transcript: Transcript) -> None:
        self._transcript = transcript
        self._pieces = self._run(events)

    @property
    def completion(self) -> Completion:
        """The whole, after the last piece; GPT2RuntimeError before that."""
        return self._transcript.completion

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def _run(self, events: Iterator[Event]) -> Iterator[str]:
        for event in events:
            if piece := self._transcript.feed(event):
                yield piece
            if self._transcript.ended:
                return


def open_tokenizer(bundle: Bundle) -> Tokenizer | None:
    """The tokenizer of a folder, None where its manifest lists none, or one of a kind that cannot be read.

    Such a folder takes token ids; `gpt2_runtime.tokenizer.tokenizer.refusal` says why no text.
    """
    files = ("tokenizer.json", "vocab.json", "merges.txt")
    if not any(name in bundle.files for name in files):
        return None
    try:
        return Tokenizer.open(bundle.folder, trained_sha256=bundle.trained_sha256)
    except TokenizerError:
        return None
