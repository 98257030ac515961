"""What a folder contains: an object for programs, aligned lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from gpt2_runtime.diagnostics import promise
from gpt2_runtime.diagnostics.load_stats import Loading
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import shown
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.graphs.graph_signature import TensorSpec
from gpt2_runtime.tokenizer.tokenizer import Tokenizer, refusal


def report(session: Session, tokenizer: Tokenizer | None, loading: Loading | None = None) -> dict[str, object]:
    """Origin, sizes, tokens, files, tensors, parity and loading of an open folder, ready for json.dumps.

    >>> contents = report(session, None)
    >>> contents["architecture"]["n_layer"], contents["tokenizer"]
    (2, None)
    """
    bundle = session.bundle
    return {
        "folder": str(bundle.folder),
        "source": asdict(bundle.source),
        "generator": bundle.generator,
        "architecture": asdict(bundle.architecture),
        "bos_token_id": bundle.bos_token_id,
        "eos_token_ids": bundle.eos_token_ids,
        "tokenizer": None if tokenizer is None else _tokenizer(tokenizer),
        "graphs": {precision: dict(kinds) for precision, kinds in bundle.graphs.items()},
        "weights": dict(bundle.weights),
        "files": {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in bundle.files.items()},
        "inputs": [asdict(spec) for spec in session.signature.inputs],
        "outputs": [asdict(spec) for spec in session.signature.outputs],
        "precision": session.precision,
        "graph": session.graph,
        "provider": session.provider.execution_provider,
        "threads": session.threads,
        "placement": asdict(session.placement),
        "versions": dict(bundle.versions),
        "parity": None if bundle.parity is None else dict(bundle.parity),
        "equalities": _equalities(session),
        "loading": None if loading is None else asdict(loading),
    }


def lines(session: Session, tokenizer: Tokenizer | None, loading: Loading | None = None) -> Iterator[str]:
    """The same for people, line by line.

    >>> next(lines(session, None)).startswith("source")
    True
    """
    bundle, sizes = session.bundle, session.bundle.architecture
    yield from _aligned(
        {
            "source": f"{bundle.source.name}, revision {bundle.source.revision or 'unknown'}",
            "made by": bundle.generator,
            "model": f"{sizes.n_layer} layers, {sizes.n_head} heads, width {sizes.n_embd}, "
            f"{sizes.n_positions} positions, {sizes.vocab_size} tokens",
            "tokenizer": _spoken(tokenizer) if tokenizer else f"token ids only: {refusal(bundle.folder)}",
            "stops at": ", ".join(f"token {id_}" for id_ in bundle.eos_token_ids) or "no token",
            "precisions": _precisions(bundle),
            "runs on": f"{session.provider.execution_provider}, {session.precision} {session.graph} graph, "
            f"{session.threads} threads",
            "operators": _placed(session),
        }
    )
    if loading is not None:
        yield from ("", "loading", *_aligned(_costs(loading), indent="  "))
    yield from ("", "files")
    yield from _aligned({name: f"{file.bytes:>13,} bytes" for name, file in bundle.files.items()}, indent="  ")
    yield from ("", "inputs", *_aligned(_tensors(session.signature.inputs, sizes.n_layer), indent="  "))
    yield from ("", "outputs", *_aligned(_tensors(session.signature.outputs, sizes.n_layer), indent="  "))
    yield from ("", "made with", *_aligned(bundle.versions, indent="  "))
    yield from ("", "equal results", *(f"  {line}" for line in promise.lines()))
    yield from ("", "parity", *_aligned(dict(_parity(bundle.parity or {"verified": "no"})), indent="  "))


def _equalities(session: Session) -> dict[str, str] | None:
    """How closely the ways to compute a text agree; None on a provider where this has not been measured."""
    if not session.provider.promises:
        return None
    return {each.name: each.levels[session.precision] for each in promise.EQUALITIES}


def _costs(loading: Loading) -> dict[str, str]:
    def megabytes(count: int | None) -> str:
        return "unknown here" if count is None else f"{count / 1e6:,.0f} MB"

    return {
        "import": f"{loading.import_seconds:.2f} s, onnxruntime",
        "graph": f"{loading.graph_seconds:.2f} s",
        "tokenizer": f"{loading.tokenizer_seconds:.2f} s",
        "memory": f"{megabytes(loading.own_bytes)} of its own, {megabytes(loading.mapped_bytes)} mapped from files",
        "peak": megabytes(loading.peak_rss_bytes),
    }


def _placed(session: Session) -> str:
    placement = session.placement
    if session.provider.is_fallback:
        return ", ".join([*([] if placement.provider is None else [str(placement.provider)]), "all on the CPU"])
    sizes = ", ".join(f"{name} ({count})" for name, count in placement.cpu.items())
    return f"{placement.provider} on the provider; on the CPU {f'of sizes alone: {sizes}' if sizes else 'none'}"


def _precisions(bundle: Bundle) -> str:
    """The precisions, each with the size of its weights."""
    sizes = {name: bundle.files[file].bytes for name, file in bundle.weights.items() if name in bundle.graphs}
    return ", ".join(f"{name} ({size / 1e6:,.1f} MB)" for name, size in sizes.items()) or "none"


def _tokenizer(tokenizer: Tokenizer) -> dict[str, object]:
    vocabulary = tokenizer.vocabulary
    return {
        "tokens": len(vocabulary.token_bytes),
        "merges": len(vocabulary.ranks) - 256,
        "added": {token.content: token.id for token in vocabulary.added},
        "add_prefix_space": vocabulary.add_prefix_space,
        "normalizer": list(vocabulary.normalizer),
        "prefix_ids": list(vocabulary.prefix_ids),
        "suffix_ids": list(vocabulary.suffix_ids),
    }


def _spoken(tokenizer: Tokenizer) -> str:
    vocabulary = tokenizer.vocabulary
    added = ", ".join(f"{token.content} = {token.id}" for token in vocabulary.added) or "none"
    return f"{len(vocabulary.token_bytes)} tokens, {len(vocabulary.ranks) - 256} merges; added: {added}"


def _tensors(specs: Sequence[TensorSpec], n_layer: int) -> dict[str, str]:
    """Name -> type and axes, with one line for the same tensor of every layer."""
    shown = {}
    for spec in specs:
        parts = spec.name.split(".")
        if parts[1:] and parts[1] != "0":
            continue
        name = ".".join([parts[0], f"0-{n_layer - 1}", *parts[2:]]) if parts[1:] else spec.name
        shown[name] = f"{spec.type} [{', '.join(map(str, spec.shape))}]"
    return shown


def _parity(parity: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """One line per fact, and one per backend or part of the explaining graph that was compared.

    A part's line includes its own limit, which differs from the folder's.
    """
    for name, value in parity.items():
        if isinstance(value, list):
            yield _word(name), f"{len(value)} cases"
        elif not isinstance(value, Mapping):
            yield _word(name), _number(value)
        elif all(isinstance(figures, Mapping) for figures in value.values()):
            whose = "" if name == "backends" else f"{_word(name)}, "
            yield from ((f"{whose}{part}", _figures(figures)) for part, figures in value.items())
        else:
            yield _word(name), _figures(value)


def _figures(figures: Mapping[str, object]) -> str:
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return ", ".join(f"{_word(name)} {_number(value)}" for name, value in numbers.items())


def _word(name: str) -> str:
    return {"tolerance": "limit", "float32_error": "error of torch's float32"}.get(name, name.replace("_", " "))


def _number(value: object) -> str:
    """
    >>> _number(0.00024137), _number(64), _number("torch"), _number(None)
    ('0.000241', '64', 'torch', 'None')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value) if isinstance(value, str) else shown(value)


def _aligned(table: Mapping[str, str], indent: str = "") -> Iterator[str]:
    shown = {_plain(name): _plain(value) for name, value in table.items()}
    width = max(map(len, shown), default=0)
    yield from (f"{indent}{name:<{width}}  {value}" for name, value in shown.items())


def _plain(text: str) -> str:
    """Text from an untrusted manifest, escaped to one line: a line break in it could fake another entry.

    >>> _plain("GPT\\n\\x1b[2J-2 é")
    'GPT\\\\n\\\\x1b[2J-2 é'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
