"""A run as Markdown: ours against the best peer, then every runtime."""

from devices import DEVICES, Device
from peers import OURS, Peer, Variant
from ratios import Cell, bandwidth, best_peer, by_round, cells, ratio, roofline, step_bytes
from records import Run
from works import FIGURES, Figure

Found = dict[tuple[Variant, str], Cell]


def table(run: Run, peers: dict[str, Peer]) -> str:
    """The whole report."""
    results, device = cells(run), DEVICES[run.device]
    parts = [against_best(results, peers, device), aims(run, peers, device), everybody(run, results, peers, device)]
    return "\n\n".join([*filter(None, parts), *notes(run, peers, device)]) + "\n"


def against_best(results: Found, peers: dict[str, Peer], device: Device) -> str:
    """How many times better ours is than the best peer of the same precision, for each figure."""
    rows = []
    for name, figure in FIGURES.items():
        if any(key[1] == name for key in results):
            rows.append([figure.title, *(_verdict(results, peers, name, precision) for precision in device.precisions)])
    return _rows(["gpt2-runtime / best peer", *device.precisions], rows)


def _verdict(results: Found, peers: dict[str, Peer], name: str, precision: str) -> str:
    figure, best = FIGURES[name], best_peer(results, name, precision, own(peers))
    ours = results.get((Variant(peer=OURS, precision=precision), name))
    if not ours:
        return "-" if best is None else f"- ({peers[best[0].peer].title} {_with_unit(figure, best[1].value)})"
    if best is None or best[1].ratio is None:
        return _with_unit(figure, ours.value)
    theirs = f"{peers[best[0].peer].title} {figure.text(best[1].value)}"
    return f"**{best[1].ratio:.2f}** ({_with_unit(figure, ours.value)}; {theirs})"


def own(peers: dict[str, Peer]) -> list[str]:
    """The peers that are gpt2-runtime, opened in different ways."""
    return [name for name, peer in peers.items() if peer.adapter == OURS]


def aims(run: Run, peers: dict[str, Peer], device: Device) -> str:
    """The device's targets for ours, and the results of each way to open it."""
    rows, values = [], by_round(run)
    for aim in device.aims:
        theirs = Variant(peer=aim.peer, precision=device.base.precision)
        mine = [Variant(peer=name, precision=device.base.precision) for name in own(peers)]
        ratios = [ratio(values, variant, theirs, aim.figure) for variant in mine]
        title = f"{FIGURES[aim.figure].title}, against {peers[aim.peer].title}"
        rows.append([title, f"{aim.least:.1f}", *(_aimed(result, aim.least) for result in ratios)])
    return _rows(["aim", "at least", *(peers[name].title for name in own(peers))], rows) if rows else ""


def _aimed(result: float | None, least: float) -> str:
    """
    >>> _aimed(2.1, 2.0), _aimed(1.9, 2.0), _aimed(None, 2.0)
    ('2.10', '**1.90**', '-')
    """
    if result is None:
        return "-"
    return f"{result:.2f}" if result >= least else f"**{result:.2f}**"


def everybody(run: Run, results: Found, peers: dict[str, Peer], device: Device) -> str:
    """Every runtime at every precision: the median, and in brackets how many times better ours is.

    It is wide, so it is folded.
    """
    figures = [name for name in FIGURES if any(key[1] == name for key in results)]
    head = ["runtime", "weights", *(f"{FIGURES[name].title}, {FIGURES[name].unit}" for name in figures)]
    rows = []
    for precision in device.precisions:
        for peer in peers.values():
            variant = Variant(peer=peer.name, precision=precision)
            if any(key[0] == variant for key in results):
                size, ids = run.megabytes.get(str(variant)), _ids(results.get((variant, "decode")))
                figure_cells = (_figure(FIGURES[name], results.get((variant, name))) for name in figures)
                title = f"{peer.title} {run.versions.get(peer.name, '')}".strip()
                rows.append([title, peer.weights[precision], *figure_cells, ids, f"{size:,.0f}" if size else "-"])
    whole = _rows([*head, f"decode: ids of {device.reference}", "file, MB"], rows)
    return f"<details>\n<summary>Every runtime, every figure</summary>\n\n{whole}\n\n</details>"


def _figure(figure: Figure, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.differs:
        return "differs"
    return figure.text(cell.value) + (f" ({cell.ratio:.2f})" if cell.ratio is not None else "")


def _ids(cell: Cell | None) -> str:
    return "-" if cell is None or cell.total is None else f"{cell.equal} of {cell.total}"


def notes(run: Run, peers: dict[str, Peer], device: Device) -> list[str]:
    """The roofline, how to read the numbers, missing runtimes and why, where and when."""
    part, (low, middle, high) = roofline(run), bandwidth(run)
    rounds, threads = counted(run.rounds, "interleaved round"), counted(run.threads, "thread")
    paragraphs = []
    if part is not None:
        weights, cache = run.bytes_a_token / 1e6, run.cached_bytes / 1e3
        numbers = {"part": part, "weights": weights, "cache": cache, "threads": threads}
        paragraphs.append(device.roofline.format(**numbers, low=low, middle=middle, high=high))
        paragraphs += filter(None, [rooflines(run, peers, device)])
    paragraphs.append(
        f"Medians of {rounds}, {threads}; in brackets, how many times better gpt2-runtime is in the same round (above "
        f"1: faster, or smaller). Greedy, GPT-2 124M with random weights, the same ids for all; {device.rule}"
    )
    missing = [f"- {name}: {reason}" for name, reason in run.failures.items()]
    if missing:
        paragraphs.append("Not measured:\n\n" + "\n".join(missing))
    return [*paragraphs, f"{run.machine}."]


def rooflines(run: Run, peers: dict[str, Peer], device: Device) -> str:
    """For each workload, the bytes a step reads and our share of the roofline."""
    rows = []
    for name in device.rooflines:
        work = device.works[name]
        parts = [roofline(run, name, peer) for peer in own(peers)]
        if any(part is not None for part in parts):
            shown = ("-" if part is None else f"{part:.0%}" for part in parts)
            rows.append([FIGURES[name].title, f"{step_bytes(run, work) / 1e6:,.0f}", *shown])
    return (
        _rows(["of the roofline", "a step reads, MB", *(peers[name].title for name in own(peers))], rows)
        if rows
        else ""
    )


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "round"), counted(5, "round")
    ('1 round', '5 rounds')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _with_unit(figure: Figure, value: float) -> str:
    return f"{figure.text(value)} {figure.unit}"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    """
    >>> print(_rows(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, *rows)).replace(
        "\n", f"\n|{'---|' * len(head)}\n", 1
    )
