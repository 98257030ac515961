"""A run as Markdown: ours against the best peer, then everybody."""

from peers import OURS, PRECISIONS, Peer, Variant
from ratios import Cell, bandwidth, best_peer, cells, roofline
from records import Run
from works import FIGURES, Figure

Found = dict[tuple[Variant, str], Cell]


def table(run: Run, peers: dict[str, Peer]) -> str:
    """The whole report."""
    found = cells(run)
    parts = [against_best(found, peers), everybody(run, found, peers), *notes(run, peers)]
    return "\n\n".join(parts) + "\n"


def against_best(found: Found, peers: dict[str, Peer]) -> str:
    """How many times better ours is than the best peer of the same precision, work by work."""
    rows = []
    for name, figure in FIGURES.items():
        if any(key[1] == name for key in found):
            rows.append([figure.title, *(_verdict(found, peers, name, precision) for precision in PRECISIONS)])
    return _rows(["gpt2-runtime / best peer", *PRECISIONS], rows)


def _verdict(found: Found, peers: dict[str, Peer], name: str, precision: str) -> str:
    figure, best = FIGURES[name], best_peer(found, name, precision)
    ours = found.get((Variant(peer=OURS, precision=precision), name))
    if not ours:
        return "-" if best is None else f"- ({peers[best[0].peer].title} {_with_unit(figure, best[1].value)})"
    if best is None or best[1].ratio is None:
        return _with_unit(figure, ours.value)
    theirs = f"{peers[best[0].peer].title} {figure.text(best[1].value)}"
    return f"**{best[1].ratio:.2f}** ({_with_unit(figure, ours.value)}; {theirs})"


def everybody(run: Run, found: Found, peers: dict[str, Peer]) -> str:
    """Every runtime at every precision: the median, and in brackets how many times better ours is."""
    figures = [name for name in FIGURES if any(key[1] == name for key in found)]
    head = ["runtime", "weights", *(f"{FIGURES[name].title}, {FIGURES[name].unit}" for name in figures)]
    rows = []
    for precision in PRECISIONS:
        for peer in peers.values():
            variant = Variant(peer=peer.name, precision=precision)
            if any(key[0] == variant for key in found):
                size, ids = run.megabytes.get(str(variant)), _ids(found.get((variant, "decode")))
                figure_cells = (_figure(FIGURES[name], found.get((variant, name))) for name in figures)
                title = f"{peer.title} {run.versions.get(peer.name, '')}".strip()
                rows.append([title, peer.weights[precision], *figure_cells, ids, f"{size:,.0f}" if size else "-"])
    return _rows([*head, "decode: ids of fp32", "file, MB"], rows)


def _figure(figure: Figure, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.differs:
        return "differs"
    return figure.text(cell.value) + (f" ({cell.ratio:.2f})" if cell.ratio is not None else "")


def _ids(cell: Cell | None) -> str:
    return "-" if cell is None or cell.total is None else f"{cell.equal} of {cell.total}"


def notes(run: Run, peers: dict[str, Peer]) -> list[str]:
    """The roofline, how to read the numbers, who is missing and why, where and when."""
    part, (low, middle, high) = roofline(run), bandwidth(run)
    rounds, threads = counted(run.rounds, "interleaved round"), counted(run.threads, "thread")
    told = []
    if part is not None:
        told.append(
            f"In fp32, gpt2-runtime decodes at {part:.0%} of the roofline: each token reads "
            f"{run.bytes_a_token / 1e6:,.1f} MB of weights, and {threads} read {middle:.1f} GB/s here (median; "
            f"{low:.1f} to {high:.1f})."
        )
    told.append(
        f"Medians of {rounds}, {threads}; in brackets, how many times better gpt2-runtime is in the same round (above "
        "1: faster, or smaller). Greedy, GPT-2 124M with random weights, the same ids for all; an fp32 runtime whose "
        "ids differ gets no time."
    )
    missing = [f"- {name}: {reason}" for name, reason in run.failures.items()]
    if missing:
        told.append("Not measured:\n\n" + "\n".join(missing))
    return [*told, f"{run.machine}."]


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
