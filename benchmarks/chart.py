"""A run as an SVG bar chart: a row per figure, a column per precision, readable on light and dark backgrounds."""

from html import escape

from devices import DEVICES, Device
from peers import OURS, Peer, Variant
from ratios import Cell, cells
from records import Run
from table import counted
from works import FIGURES, Figure

WIDTH, MARGIN, GAP = 960, 16, 24
NUMBER = 52  # width of the number beside a bar
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
    """The whole chart."""
    results, device = cells(run), DEVICES[run.device]
    width = panel_width(len(device.precisions))
    figures = [name for name in FIGURES if any(key[1] == name for key in results)]
    parts = [_text(MARGIN, 28, f"GPT-2 124M {device.title}: gpt2-runtime beside its peers", "title")]
    parts.append(
        _text(
            MARGIN,
            48,
            f"{run.machine.short}, {counted(run.threads, 'thread')}; medians of {counted(run.rounds, 'round')}",
            "faint",
        )
    )
    y = 64.0
    for name in figures:
        panels = [_bars(results, peers, name, precision) for precision in device.precisions]
        for column, (precision, bars) in enumerate(zip(device.precisions, panels, strict=True)):
            x = MARGIN + column * (width + GAP)
            parts.append(_panel(x, y, width - device.label - NUMBER, device, FIGURES[name], precision, bars))
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


def panel_width(columns: int) -> float:
    """
    >>> panel_width(1), panel_width(2)
    (928.0, 452.0)
    """
    return (WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns


Bar = tuple[Peer, float]


def _bars(results: dict[tuple[Variant, str], Cell], peers: dict[str, Peer], name: str, precision: str) -> list[Bar]:
    """The runtimes of a panel, best first."""
    bars = []
    for peer in peers.values():
        cell = results.get((Variant(peer=peer.name, precision=precision), name))
        if cell and not cell.differs:
            bars.append((peer, cell.value))
    return sorted(bars, key=lambda bar: bar[1], reverse=FIGURES[name].larger_is_better)


def _panel(x: float, y: float, room: float, device: Device, figure: Figure, precision: str, bars: list[Bar]) -> str:
    """One precision of a figure; the longest bar fills the width."""
    left = x + device.label
    parts = [_text(left, y + 34, precision, "faint")]
    if not bars:
        parts.append(_text(left, y + HEAD + 3, "-", "faint"))
    longest = max((value for _, value in bars), default=1.0)
    for index, (peer, value) in enumerate(bars):
        top = y + HEAD - 8 + index * BAR
        width = max(1.0, room * value / longest)
        ours = peer.adapter == OURS
        parts.append(_text(left - 8, top + 11, peer.title, "name head" if ours else "name"))
        kind = "bar ours" if ours else "bar"
        parts.append(f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="13" rx="2"/>')
        parts.append(_text(left + width + 6, top + 11, figure.text(value), "faint"))
    return "\n".join(parts)


def _text(x: float, y: float, text: str, kind: str, *, anchor: str | None = None) -> str:
    """
    >>> _text(1, 2, "a < b", "faint")
    '<text class="faint" x="1.0" y="2.0">a &lt; b</text>'
    """
    style = f' style="text-anchor: {anchor}"' if anchor else ""
    return f'<text class="{kind}"{style} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
