"""How a model reads a text: the probability of each token, the predictions of each layer, the attention of each head.

L layers, T tokens, K predictions, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_choice, check_integer, is_integer
from gpt2_runtime.errors import (
    BundleError,
    EmptyPromptError,
    LogitsError,
    PromptTooLongError,
    TokenIdError,
    shown,
)
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.folder.sharing import Shared
from gpt2_runtime.generation.config import Overflow
from gpt2_runtime.generation.request import check_prompt
from gpt2_runtime.graphs.graph_choice import check_graph
from gpt2_runtime.graphs.graph_file import GraphFile, Load
from gpt2_runtime.graphs.graph_signature import Signature
from gpt2_runtime.graphs.inference import open_inference
from gpt2_runtime.providers.providers import choose_provider
from gpt2_runtime.sampling.config import GREEDY
from gpt2_runtime.scoring.score import TokenScore
from gpt2_runtime.text.completion import entry_to_dict, token_to_dict
from gpt2_runtime.text.generator import TextGenerator, open_tokenizer
from gpt2_runtime.tokenizer.tokenizer import Tokenizer, refusal

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KIND = "explaining"
MAX_TOKENS = 256  # attention is layers x heads x tokens x tokens: a larger page would be unreadable and slow to load
TOP, MAX_TOP = 8, 50

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What the model computed for a text of T tokens; the first has no prediction.

    Attributes:
        model: the checkpoint's name.
        folder: the exported folder.
        token_ids: [T].
        prompt_tokens: how many of them are the prompt; the model generated the rest, greedily.
        ranks: [T], 1 if the token was the likeliest one; 0 for the first.
        log_probs: [T], of each token given those before it, in nats; NaN for the first.
        lens_ids: [L + 1, T, K], the predicted next tokens after each token, from the embeddings and from each layer,
            the likeliest first. The last layer's are the model's own predictions.
        lens_log_probs: [L + 1, T, K].
        lens_next_log_probs: [L + 1, T], of the actual next token; NaN after the last.
        attentions: [L, H, T, T], the attention that each token (third axis) pays to each other token (fourth).
        tokenizer: the folder's; None if it has none.
    """

    model: str
    folder: Path
    token_ids: tuple[int, ...]
    prompt_tokens: int
    ranks: Ids
    log_probs: Floats
    lens_ids: Ids
    lens_log_probs: Floats
    lens_next_log_probs: Floats
    attentions: Floats
    tokenizer: Tokenizer | None

    @property
    def perplexity(self) -> float | None:
        """Over all tokens but the first; None if there is only one."""
        return float(np.exp(-self.log_probs[1:].mean(dtype=np.float64))) if len(self.token_ids) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Explainer(Shared):
    """The open explaining graph of a folder. Pickled to another process, it is opened again there.

    >>> explainer = Explainer.open(folder, threads=1)
    >>> explanation = explainer.explain([5, 6, 7], top=3)
    >>> explanation.attentions.shape, explanation.lens_ids.shape
    ((2, 4, 3, 3), (3, 3, 3))
    """

    bundle: Bundle
    tokenizer: Tokenizer | None
    file: GraphFile
    inference: InferenceSession
    provider: str
    threads: int

    @classmethod
    def open(
        cls,
        folder: str | Path | Bundle,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        load: Load = "copy",
        check_hashes: bool = False,
    ) -> Explainer:
        """Opens the folder's explaining graph, which is always float32.

        Args:
            folder: the folder that `gpt2-export make` wrote, or its open Bundle.
            provider: as for `Session.open`.
            threads: how many threads one operator may use.
            load: whether to copy weights into memory or map them; see `Session.open`.
            check_hashes: whether to compare every file's SHA-256 with the manifest.

        Raises:
            BundleError: the folder is damaged, or too old to have an explaining graph.
            ProviderError: the provider is not available.
            SettingError: `threads` or `load` is out of range.
        """
        bundle = folder if isinstance(folder, Bundle) else Bundle.open(folder, check_hashes=check_hashes)
        if KIND not in bundle.graphs.get("fp32", {}):
            remedy = (
                f"add it with `gpt2-export onnx {bundle.folder}`, then `gpt2-export verify`, or make the folder again"
            )
            raise BundleError(f"{bundle.folder} has no {KIND} graph; {remedy}")
        # Not prepacked: it multiplies by the head once per layer, and each time would make a packed copy.
        chosen = choose_provider(provider)
        check_graph(chosen, "portable", "fp32")  # it has the same operators
        count = chosen.threads(threads)
        signs = partial(Signature.explaining, bundle.architecture)
        file = GraphFile.open(bundle, "fp32", KIND, signs, load=load, tensors=chosen.tensors)
        inference = open_inference(file, chosen, count, False)
        tokenizer = open_tokenizer(bundle)
        return cls(bundle=bundle, tokenizer=tokenizer, file=file, inference=inference, provider=provider, threads=count)

    def __reduce__(self) -> tuple[object, ...]:
        load: Load = "map" if self.file.mapped else "copy"
        return partial(Explainer.open, provider=self.provider, threads=self.threads, load=load), (self.bundle,)

    def explain(
        self,
        prompt: str | Sequence[int],
        *,
        top: int = TOP,
        generate: int = 0,
        overflow: Overflow = "error",
    ) -> Explanation:
        """Reads a text, and returns what the model computed on the way.

        Args:
            prompt: text, or token ids.
            top: K, from 1 to 50: how many predictions to keep for each position.
            generate: how many tokens to generate first, greedily, and explain as well; fewer if the text ends.
            overflow: "error" refuses a prompt that is too long, "truncate" keeps its last tokens.

        Raises:
            PromptError: the prompt is empty, too long (256 tokens or the model's limit, with the generated ones), or
                has an id outside the vocabulary.
            SettingError: a setting is out of range.
            TokenizerError: the prompt is text, and the folder has no supported tokenizer.
            LogitsError: the model computed NaN or infinity.
        """
        sizes = self.bundle.architecture
        most_top = min(MAX_TOP, sizes.vocab_size)
        check_integer("top", top, 1, most_top)
        limit = min(MAX_TOKENS, sizes.n_positions)
        check_integer("generate", generate, 0, limit - 1)
        prompt_ids = self._fitting(self._ids(prompt), limit - generate, overflow)
        ids = prompt_ids
        if generate:
            writer = TextGenerator.open(
                self.bundle,
                precision="fp32",
                provider=self.provider,
                threads=self.threads,
                prepack=False,
                load="map" if self.file.mapped else "copy",
            )
            ids = [*prompt_ids, *writer.complete(prompt_ids, max_new_tokens=generate, sampling=GREEDY).token_ids]
        self.file.check_unchanged()
        text = np.array([ids], np.int64)  # [1, T]
        feeds = {"input_ids": text, "target_ids": np.roll(text, -1), "top_k": np.array(top, np.int64)}
        logits, lens_ids, lens_log_probs, lens_next, *attentions = self.inference.run(None, feeds)
        if not all(np.isfinite(array).all() for array in (logits, lens_log_probs, *attentions)):
            raise LogitsError(f"{self.bundle.folder} computed NaN or infinity; check the folder with check_hashes=True")
        following = text[0, 1:]
        own = np.take_along_axis(logits[0, :-1], following[:, None], axis=-1)  # [T - 1, 1]
        lens_next[:, :, -1] = np.nan
        return Explanation(
            model=self.bundle.source.name,
            folder=self.bundle.folder,
            token_ids=tuple(ids),
            prompt_tokens=len(prompt_ids),
            ranks=np.concatenate([[0], 1 + (logits[0, :-1] > own).sum(axis=-1)]).astype(np.int64),
            log_probs=np.concatenate([np.full(1, np.nan, np.float32), lens_next[-1, 0, :-1]]),
            lens_ids=lens_ids[:, 0],
            lens_log_probs=lens_log_probs[:, 0],
            lens_next_log_probs=lens_next[:, 0],
            attentions=np.stack([layer[0] for layer in attentions]),
            tokenizer=self.tokenizer,
        )

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            check_prompt(prompt)
            return list(prompt)
        if self.tokenizer is None:
            raise refusal(self.bundle.folder)
        return self.tokenizer.encode(prompt)

    def _fitting(self, ids: list[int], limit: int, overflow: Overflow) -> list[int]:
        """The ids, checked, and cut to the last `limit` if `overflow` is "truncate"."""
        check_choice("overflow", overflow, ("error", "truncate"))
        if not ids:
            raise EmptyPromptError("prompt has 0 tokens, must have at least 1", parameter="prompt", value=ids)
        if len(ids) > limit and overflow == "error":
            problem = f"prompt has {len(ids)} tokens, the limit here is {limit}"
            problem = f"{problem}; shorten it, or pass overflow='truncate' to keep its last"
            raise PromptTooLongError(problem, parameter="prompt", value=ids)
        vocab_size = self.bundle.architecture.vocab_size
        for id_ in ids:
            if not (is_integer(id_) or isinstance(id_, np.integer)) or not 0 <= id_ < vocab_size:
                problem = f"token id is {shown(id_)}, must be an integer from 0 to {vocab_size - 1}"
                raise TokenIdError(problem, parameter="prompt", value=id_)
        return [int(id_) for id_ in ids[-limit:]]


def report(explanation: Explanation) -> dict[str, object]:
    """Everything but attention, ready for json.dumps. A layer's `top_logprobs` are for the token after its token.

    >>> explained = report(Explainer.open(folder, threads=1).explain([5, 6, 7], top=2))
    >>> [token["rank"] for token in explained["tokens"]][0], len(explained["tokens"][2]["layers"])
    (None, 3)
    """
    tokenizer = explanation.tokenizer

    def top_logprobs(number: int, place: int) -> tuple[tuple[int, float], ...]:
        ids, log_probs = explanation.lens_ids[number, place], explanation.lens_log_probs[number, place]
        return tuple(zip(ids.tolist(), log_probs.tolist(), strict=True))

    def token(place: int) -> dict[str, object]:
        score = TokenScore(
            id=explanation.token_ids[place],
            logprob=_number(explanation.log_probs[place]),
            rank=int(explanation.ranks[place]) or None,
            top_logprobs=top_logprobs(-1, place - 1) if place else (),
        )
        return token_to_dict(tokenizer, score)

    def layer(number: int, place: int) -> dict[str, object]:
        after = _number(explanation.lens_next_log_probs[number, place])
        top = [entry_to_dict(tokenizer, id_, logprob) for id_, logprob in top_logprobs(number, place)]
        return {"layer": number, "next_logprob": after, "top_logprobs": top}

    return {
        "model": explanation.model,
        "folder": str(explanation.folder),
        "prompt_tokens": explanation.prompt_tokens,
        "perplexity": explanation.perplexity,
        "tokens": [
            token(place) | {"layers": [layer(number, place) for number in range(len(explanation.lens_ids))]}
            for place in range(len(explanation.token_ids))
        ],
    }


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)
