"""A run as an SVG of bars: a row for each figure, a column for each precision, readable on light and on dark."""

from html import escape

from peers import OURS, PRECISIONS, Peer, Variant
from ratios import Cell, cells
from records import Run
from table import counted
from works import FIGURES, Figure

WIDTH, MARGIN, GAP = 960, 16, 24
PANEL = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
LABEL, NUMBER = 112, 52  # beside a bar: who it is, what it says
BAR, HEAD = 18, 46
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #3b4048; }
.title { font-size: 16px; font-weight: 600; fill: #16191d; }
.head { font-weight: 600; fill: #16191d; }
.bar { fill: #b3bac4; }
.ours { fill: #1667c7; }
.name { text-anchor: end; }
.faint { fill: #6b727c; }
@media (prefers-color-scheme: dark) {
  text { fill: #c3c9d2; }
  .title, .head { fill: #f0f3f6; }
  .bar { fill: #59616c; }
  .ours { fill: #58a6ff; }
  .faint { fill: #8f97a2; }
}
"""


def chart(run: Run, peers: dict[str, Peer]) -> str:
    """The whole picture."""
    found = cells(run)
    figures = [name for name in FIGURES if any(key[1] == name for key in found)]
    parts = [_text(MARGIN, 28, "GPT-2 124M on a CPU: gpt2-runtime beside its peers", "title")]
    parts.append(
        _text(
            MARGIN,
            48,
            f"{run.machine}, {counted(run.threads, 'thread')}; medians of {counted(run.rounds, 'round')}",
            "faint",
        )
    )
    y = 64.0
    for name in figures:
        panels = [_bars(found, peers, name, precision) for precision in PRECISIONS]
        for column, (precision, bars) in enumerate(zip(PRECISIONS, panels, strict=True)):
            x = MARGIN + column * (PANEL + GAP)
            parts.append(_panel(x, y, FIGURES[name], precision, bars))
        better = "more is better" if FIGURES[name].larger_is_better else "less is better"
        parts.append(_text(MARGIN, y + 18, FIGURES[name].title, "head"))
        parts.append(_text(WIDTH - MARGIN, y + 18, f"{FIGURES[name].unit}, {better}", "faint", anchor="end"))
        y += HEAD + BAR * max(1, *map(len, panels)) + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" role="img" '
        f'aria-label="Speed, memory and start of GPT-2 runtimes">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


Bar = tuple[Peer, float]


def _bars(found: dict[tuple[Variant, str], Cell], peers: dict[str, Peer], name: str, precision: str) -> list[Bar]:
    """The runtimes of a panel, the best first."""
    bars = []
    for peer in peers.values():
        cell = found.get((Variant(peer=peer.name, precision=precision), name))
        if cell and not cell.differs:
            bars.append((peer, cell.value))
    return sorted(bars, key=lambda bar: bar[1], reverse=FIGURES[name].larger_is_better)


def _panel(x: float, y: float, figure: Figure, precision: str, bars: list[Bar]) -> str:
    parts = [_text(x + LABEL, y + 34, precision, "faint")]
    if not bars:
        parts.append(_text(x + LABEL, y + HEAD + 3, "-", "faint"))
    longest = max((value for _, value in bars), default=1.0)
    for index, (peer, value) in enumerate(bars):
        top = y + HEAD - 8 + index * BAR
        width = max(1.0, (PANEL - LABEL - NUMBER) * value / longest)
        kind = "bar ours" if peer.name == OURS else "bar"
        parts.append(_text(x + LABEL - 8, top + 11, peer.title, "name head" if peer.name == OURS else "name"))
        parts.append(f'<rect class="{kind}" x="{x + LABEL:.1f}" y="{top:.1f}" width="{width:.1f}" height="13" rx="2"/>')
        parts.append(_text(x + LABEL + width + 6, top + 11, figure.text(value), "faint"))
    return "\n".join(parts)


def _text(x: float, y: float, text: str, kind: str, *, anchor: str | None = None) -> str:
    """
    >>> _text(1, 2, "a < b", "faint")
    '<text class="faint" x="1.0" y="2.0">a &lt; b</text>'
    """
    style = f' style="text-anchor: {anchor}"' if anchor else ""
    return f'<text class="{kind}"{style} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
