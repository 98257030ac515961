"""The contents of a made folder, read from its files: as a table, and as one JSON object."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from gpt2_model.quoting import all_escaped

from gpt2_export import plain_file
from gpt2_export.errors import FolderError, GraphError
from gpt2_export.folder.manifest import MANIFEST, Manifest, differences, read
from gpt2_export.folder.reports import ParityReport, QualityReport, TokenizerReport
from gpt2_export.freeze import merges
from gpt2_export.freeze.freeze import WEIGHTS
from gpt2_export.freeze.tokenizer_settings import TOKENIZER
from gpt2_export.graphs import export, kinds
from gpt2_export.precision.precision import FP32, PRECISIONS
from gpt2_export.weights import safetensors_file


def inspect(folder: Path, *, check_hashes: bool = False) -> dict[str, Any]:
    """Sizes, inputs and outputs, operators, provenance and parity of a folder.

    Args:
        folder: a made folder.
        check_hashes: compare every file with its sha256 in the manifest.

    Raises:
        FolderError: gpt2-export did not make the folder.
    """
    manifest = read(folder)
    if FP32 not in manifest.weights:
        raise FolderError(f"{folder / MANIFEST} is damaged: weights has no {FP32}; make the folder again")
    weights = safetensors_file.places(folder / WEIGHTS)
    tensor_bytes = sum(place.nbytes for place in weights.values())
    folder_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    described = manifest.to_dict()
    report: dict[str, Any] = {
        "source": described["source"],
        "generator": described["generator"],
        "versions": described["versions"],
        "warnings": described["warnings"],
        "parameters": tensor_bytes // safetensors_file.FLOAT32_BYTES,
        "tensors": len(weights),
        "tensor_bytes": tensor_bytes,
        "folder_bytes": folder_bytes,
        "files": described["files"],
        "graphs": {
            precision: {kind: _described(folder / file) for kind, file in files.items()}
            for precision, files in _graphs(folder, manifest).items()
        },
        "precisions": _sizes(folder, manifest),
        "tokenizer": described["tokenizer"],
        "parity": described["parity"],
        "quality": described["quality"],
    }
    if check_hashes:
        report["differences"] = [*differences(folder, manifest), *_tokenizer_differences(folder, manifest)]
    return report


def table(report: dict[str, Any]) -> str:
    """The report as a table; untrusted text stays on its line."""
    report = all_escaped(report)
    source = report["source"]
    lines = [
        f"source      {source['name']}" + (f" at {source['revision']}" if source["revision"] else ""),
        f"made by     {report['generator']['name']} {report['generator']['version']}",
        f"network     {report['parameters']:,} parameters in {report['tensors']} tensors",
        f"size        {report['folder_bytes']:,} bytes, {report['tensor_bytes']:,} of them tensors",
        "",
        "files",
        *(f"  {entry['bytes']:>13,}  {entry['sha256'][:16]}  {name}" for name, entry in report["files"].items()),
        "",
        *_graphs_lines(report["graphs"]),
        *_tokenizer_lines(report["tokenizer"]),
        *parity_lines(report["parity"]),
        "",
        *quality_lines(report["quality"], report["precisions"]),
        *(f"warning: {warning}" for warning in report["warnings"]),
    ]
    if "differences" in report:
        lines += (
            ["", *(f"WRONG: {line}" for line in report["differences"])] if report["differences"] else ["", "hashes fit"]
        )
    return "\n".join(lines)


def _tokenizer_differences(folder: Path, manifest: Manifest) -> list[str]:
    """Checks again what the manifest says about a tokenizer's merges."""
    if TOKENIZER not in manifest.files or not (manifest.tokenizer or {}).get("merges_as_trained"):
        return []
    try:
        proven = merges.as_trained(plain_file.read_json(folder / TOKENIZER))
    except (FolderError, OSError, LookupError, TypeError):  # it is not a tokenizer at all
        proven = False
    return [] if proven else [f"{TOKENIZER} has merges that are not as trained, but {MANIFEST} says they are"]


def _tokenizer_lines(report: TokenizerReport | None) -> list[str]:
    """The tokenizer's comparison with its source."""
    if report is None:
        return ["tokenizer   not compared: none, or one that is read by others only", ""]
    texts, references = report.get("texts", 0), ", ".join(map(str, report.get("references", ())))
    return [f"tokenizer   {report.get('outcome')} as the source's: {texts} texts, by {references}", ""]


def parity_lines(parity: ParityReport | None) -> list[str]:
    """The parity report, a line a backend."""
    if parity is None:
        return ["parity      not verified; run `gpt2-export verify FOLDER`"]
    with _report("parity"):
        return _parity_lines(all_escaped(parity))


def _parity_lines(parity: ParityReport) -> list[str]:
    lines = [
        f"parity      against {parity['reference']}, {len(parity['sweep'])} shapes; "
        f"torch's float32 is within {parity['float32_error']:.2g}, the limit is {parity['tolerance']:.2g}"
    ]
    for name, figures in parity["backends"].items():
        lines.append(
            f"  {name}: logits within {figures['max_logit_difference']:.2g} ({figures['worst_case']}), "
            f"KL at most {figures['max_kl']:.2g}, top-1 {figures['top1_agreement']:.2%}, "
            f"greedy {figures['greedy_agreement']} of {figures['greedy_tokens']}"
        )
    if "explaining" in parity:
        parts = [
            f"{'logits' if what == 'logit' else what} within {figures['max_difference']:.2g} "
            f"(float32 {figures['float32_error']:.2g}, limit {figures['tolerance']:.2g})"
            for what, figures in parity["explaining"].items()
        ]
        lines.append(f"  explaining: {', '.join(parts)}")
    if "stress" in parity:
        shares = {name: report["max_difference"] / report["tolerance"] for name, report in parity["stress"].items()}
        worst = max(shares, key=lambda name: shares[name])
        lines.append(f"  stress weights: at most {shares[worst]:.0%} of the limit ({worst.partition(', stress')[0]})")
    return lines


def quality_lines(quality: Mapping[str, QualityReport], sizes: dict[str, Any]) -> list[str]:
    """A line a precision, and one for each text that it was measured on: of its graphs the one that loses more."""
    with _report("quality"):
        return _quality_lines(all_escaped(quality), sizes)


def _quality_lines(quality: Mapping[str, QualityReport], sizes: dict[str, Any]) -> list[str]:
    lines = []
    for name, size in sizes.items():
        lines.append(f"precision   {name}: weights and graphs {size['bytes']:,} bytes, {size['of_fp32']:.3f} of fp32")
        report = quality.get(name)
        if report is None:
            continue
        if report["kept"]:
            lines.append(f"  kept in float32: {', '.join(report['kept'])}")
        if "largest_activation" in report:
            loud = report["largest_activation"]
            lines.append(f"  largest activation {loud['size']:.4g} of {loud['limit']:.0f} ({loud['layer']})")
        for text in next(iter(report["graphs"].values())):
            kind, figures = max(
                ((kind, texts[text]) for kind, texts in report["graphs"].items()),
                key=lambda entry: entry[1]["ppl_increase"],
            )
            lines.append(
                f"  {text}, {figures['tokens']} tokens, {kind}: perplexity {figures['perplexity_fp32']:.4g} "
                f"{figures['ppl_increase']:+.2g} % (limit {report['max_ppl_increase']:g} %), "
                f"KL {figures['mean_kl']:.2g} (at most {figures['max_kl']:.2g}), "
                f"top-1 {figures['top1_agreement']:.2%}, "
                f"greedy {figures['greedy_agreement']} of {figures['greedy_tokens']}"
            )
    return lines


def precision_lines(folder: Path, manifest: Manifest) -> list[str]:
    """`quality_lines` of a folder that has more than float32."""
    if not manifest.quality:
        return []
    return quality_lines(manifest.quality, _sizes(folder, manifest))


def sensitivity_lines(sensitivity: dict[str, float], most: int = 10) -> list[str]:
    """The matrices that lose most, alone in the precision, and their KL divergence."""
    width = max(map(len, sensitivity), default=0)
    rows = [f"  {name:<{width}}  {loss:.2g}" for name, loss in list(sensitivity.items())[:most]]
    return ["matrices that lose most, each alone, by KL divergence", *rows]


def as_json(report: dict[str, Any]) -> str:
    """One object, in which what cannot be printed is written as \\u and its number."""
    text = json.dumps(report, indent=2, ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def _graphs(folder: Path, manifest: Manifest) -> dict[str, dict[str, str]]:
    """The graphs that are there and that the manifest lists."""
    there = {path.name for path in folder.iterdir()} & manifest.files.keys()
    return {precision: files for precision, files in kinds.graphs_among(there).items() if precision in manifest.weights}


@contextmanager
def _report(name: str) -> Iterator[None]:
    """Turns what comes of a report that lacks a figure, or has a text for one, into one line."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise FolderError(
            f"{MANIFEST}: {name} is not a report of this version ({reason}); verify the folder, or make it again"
        ) from error


def _described(path: Path) -> dict[str, Any]:
    proto = export.load(path)
    try:
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "opsets": {opset.domain or "ai.onnx": opset.version for opset in proto.opset_import},
            "ir_version": proto.ir_version,
            "inputs": {value.name: _axes(value) for value in proto.graph.input},
            "outputs": {value.name: _axes(value) for value in proto.graph.output},
            "operators": export.op_counts(proto),
        }
    except ValueError as error:  # a type that ONNX does not have, a name that is no text
        raise GraphError(f"{path} is damaged: {error}; export it again") from error


def _axes(value: onnx.ValueInfoProto) -> list[str | int]:
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    return [name, *(axis.dim_param or axis.dim_value for axis in kind.shape.dim)]


def _sizes(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What each precision takes: its weights, and the graphs over them that every precision has."""
    graphs = _graphs(folder, manifest)
    shared = {kind.name for kind in kinds.KINDS if not kind.float32_only}
    sizes: dict[str, dict[str, Any]] = {}
    for precision in (name for name in (FP32, *PRECISIONS) if name in manifest.weights):
        weights = manifest.weights[precision]
        files = [weights, *(file for kind, file in graphs.get(precision, {}).items() if kind in shared)]
        count = sum(manifest.files[file].bytes for file in files)
        fp32 = sizes[FP32]["bytes"] if sizes else count
        sizes[precision] = {"weights": weights, "bytes": count, "of_fp32": count / max(fp32, 1)}
    return sizes


def _graphs_lines(graphs: dict[str, Any]) -> list[str]:
    """Those of float32 whole; the others have the same inputs and outputs, and other operators."""
    if not graphs:
        return ["graphs      none; export them with `gpt2-export onnx FOLDER`", ""]
    lines = [line for kind, report in graphs.get(FP32, {}).items() for line in _graph_lines(kind, report)]
    for precision, kinds_found in graphs.items():
        if precision != FP32:
            for kind, report in kinds_found.items():
                lines += [f"graph       {precision} {kind}, {report['file']}", _operators_line(report), ""]
    return lines


def _graph_lines(kind: str, report: dict[str, Any]) -> list[str]:
    layers = len({name.split(".")[1] for name in report["outputs"] if "." in name})
    opsets = ", ".join(f"{domain} {version}" for domain, version in report["opsets"].items())
    lines = [f"graph       {kind}, {report['file']}: {layers} layers, opsets {opsets}, IR {report['ir_version']}"]
    for way in ("inputs", "outputs"):
        for name, (element, *axes) in report[way].items():
            if "." not in name or name.split(".")[1] == "0":
                lines.append(f"  {way[:-1]:<7} {name:<24} {element} {axes}")
    return [*lines, _operators_line(report), ""]


def _operators_line(report: dict[str, Any]) -> str:
    return "  operators  " + ", ".join(f"{count} {name}" for name, count in report["operators"].items())
