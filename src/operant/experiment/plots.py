"""Charts as SVG strings: figures in, markup out.

Colours are CSS classes (`STYLE`), so a chart follows the light or dark theme of the page that holds it. Charts are
drawn about as wide as a phone and scaled by the page, so their words stay readable on both.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from operant.core.statistics import Estimate

KINDS = {
    "right": "right",
    "hedged_right": "right, hedged",
    "unknown": "“I do not know”",
    "hedged_wrong": "wrong, hedged",
    "wrong": "wrong",
}
"""The kinds of answer from best to worst: blue is right, orange is wrong, pale is hedged, grey abstains."""

METRICS = {
    "objective/true_reward": ("True reward", "never seen in training; higher is better"),
    "objective/score": ("Learned reward", "what the reward model thinks; higher pleases it"),
    "objective/kl": ("Distance from the reference", "KL in nats for each answer; 0 is still the reference"),
    "rollout/episode_return": ("Return", "sum of rewards in an episode; higher is better"),
    "rollout/episode_length": ("Episode length", "steps until an episode is over or cut off"),
    "time/steps_per_second": ("Speed", "steps a second of all environments together"),
    "value/explained_variance": ("Explained variance", "1: the critic foresees returns; 0: no better than their mean"),
    "rollout/episodes": ("Episodes", "all that are over, so far"),
    "bandit/reward": ("Reward", "mean over runs of what a step pays"),
    "rewards/accuracies": ("Pairs ordered as the label says", "0.5 is chance, 1 is all"),
    "rewards/margins": ("Margin", "score of the chosen answer less the rejected one"),
    "loss/policy": ("Policy loss", "its level means little; jumps mean trouble"),
    "policy/clip_fraction": ("Clipped ratios", "share of decisions with a ratio beyond the clip range"),
    "policy/entropy": ("Entropy", "nats; towards 0 the policy repeats itself"),
    "loss/value": ("Value loss", "error of the critic; lower is better"),
}
"""The curves a reader wants first, with a title and how to read each."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f27; --dim: #646c7a; --page: #f5f6f8; --card: #fff; --edge: #e2e5ea; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ee; --dim: #98a1b0; --page: #101318; --card: #181c23; --edge: #2a2f39; } }
* { box-sizing: border-box; } html { scroll-padding-top: 3.4rem; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header, main { max-width: 1120px; margin: auto; padding: 0 1rem; } header { padding-top: 2.2rem; }
header p { margin: 0; color: var(--dim); font-size: .85rem; } h1 { margin: .1rem 0 1rem; line-height: 1.15; }
nav { position: sticky; top: 0; z-index: 2; display: flex; gap: 1.1rem; overflow-x: auto; white-space: nowrap;
  padding: .6rem max(1rem, calc(50vw - 544px)); background: var(--page); border-bottom: 1px solid var(--edge); }
nav a { color: var(--dim); text-decoration: none; font-size: .88rem; } nav a:hover { color: var(--ink); }
section { margin: 2.2rem 0 3rem; } h2 { font-size: 1.35rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 0 0 .6rem; }
h3.run { margin: 1.6rem 0 .7rem; color: var(--dim); } h4 { margin: 0; font-size: .9rem; } p { margin: .3rem 0; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least, 430px)), 1fr)); }
.grid { align-items: start; } .small { --least: 300px; align-items: stretch; }
.tiles { margin-bottom: 1rem; align-items: stretch; } .pair { gap: 0 1rem; }
.card, .tiles > div, details { background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: 1rem 1.1rem; margin: 0; min-width: 0; } details { margin-top: 1rem; padding: .7rem 1.1rem; }
summary { cursor: pointer; color: var(--dim); font-size: .92rem; } details[open] > summary { margin-bottom: .8rem; }
details + details { margin-top: .5rem; } section > .card + .card, section > .grid + .card,
  section > .card + .grid { margin-top: 1rem; }
figcaption, .note { color: var(--dim); font-size: .87rem; margin-top: .6rem; } code, pre { font-size: .8rem; }
pre { overflow-x: auto; } .name { color: var(--dim); font-size: .87rem; }
.flow { display: flex; flex-wrap: wrap; gap: .2rem min(2rem, 4vw); margin: .5rem 0; }
.flow span { font-size: .78rem; color: var(--dim); }
.flow b { display: block; font-size: min(1.7rem, 5.4vw); line-height: 1.2; color: var(--ink);
  font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem .9rem; font-size: .78rem; margin-bottom: .7rem; }
.legend i, .name i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .8rem .5rem 0; border-top: 1px solid var(--edge); }
thead th { border-top: 0; color: var(--dim); font-weight: 500; }
td b { font-weight: 600; font-variant-numeric: tabular-nums; }
td small, th small, .meta { display: block; color: var(--dim); font-size: .76rem; white-space: nowrap; }
.words { white-space: pre-wrap; overflow-wrap: anywhere; } .meta { white-space: normal; } th small { font-weight: 400; }
.chip { font-size: .72rem; border-radius: 4px; padding: .1rem .4rem; background: var(--edge); }
@media (max-width: 700px) { .samples thead { display: none; } .samples tr { display: block; padding: .6rem 0; }
  .samples th, .samples td { display: block; border: 0; padding: .25rem 0; }
  .samples tr + tr { border-top: 1px solid var(--edge); }
  .samples td::before { content: attr(data-stage); display: block; color: var(--dim); font-size: .76rem; } }
:root { --right: #1c69b0; --on-right: #fff; --hedged_right: #a3cdee; --on-hedged_right: #10222f; --unknown: #d3d6dc;
  --on-unknown: #2a2e36; --hedged_wrong: #f5c799; --on-hedged_wrong: #3a2205; --wrong: #c44f14; --on-wrong: #fff;
  --grid: #e4e7ec; --s0: #1c69b0; --s1: #c44f14; --s2: #14866d; --s3: #8c4fb0; --s4: #a67c00; --s5: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --right: #62aef2; --on-right: #071521; --hedged_right: #27517a;
  --on-hedged_right: #dcecfb; --unknown: #4b515d; --on-unknown: #eceef2; --hedged_wrong: #7a4a22;
  --on-hedged_wrong: #fde8d3; --wrong: #f28b4b; --on-wrong: #220d01; --grid: #2b303a; --s0: #62aef2; --s1: #f28b4b;
  --s2: #45c7a5; --s3: #c596e6; --s4: #dbb23e; --s5: #9aa3b2; } }
svg { display: block; width: 100%; height: auto; font-size: 12px; overflow: visible; }
svg text { fill: var(--ink); } svg .dim { fill: var(--dim); font-size: 11px; }
svg .grid { stroke: var(--grid); } svg .reference { stroke: var(--dim); stroke-dasharray: 4 3; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .raw { fill: none; stroke-width: 1; opacity: .3; stroke-linejoin: round; } svg .dot { opacity: .35; }
svg .interval { stroke-width: 2.5; stroke-linecap: round; } svg .stem { stroke-width: 10; opacity: .22; }
svg .cell { stroke: var(--card); stroke-width: 1.5; } svg .heat { fill: var(--s0); } svg .ended { fill: var(--grid); }
svg .wall { fill: var(--dim); } svg .mark { font-weight: 600; }
svg .figure { font-size: 11px; }
svg .bar { fill: var(--s0); } svg .segment { stroke: var(--card); stroke-width: 1.5; }
""" + "".join(
    [f".k-{k} {{ fill: var(--{k}); background: var(--{k}); color: var(--on-{k}); }}\n" for k in [*KINDS]]
    + [f"svg .on-{k} {{ fill: var(--on-{k}); font-size: 11px; }}\n" for k in KINDS]
    + [f".s{i} {{ stroke: var(--s{i}); }} .f{i} {{ fill: var(--s{i}); background: var(--s{i}); }}\n" for i in range(6)]
)

COLOURS = 6
"""Colours of curves: classes f0 to f5 fill, s0 to s5 stroke."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values along an axis, in the order in which they were written."""

    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]


def figure(title: str, caption: str, content: str) -> str:
    """A chart or a table as a card of the page, between its title and what it shows."""
    return f'<figure class="card"><h3>{escape(title)}</h3>{content}<figcaption>{escape(caption)}</figcaption></figure>'


def estimate(value: Any) -> Estimate | None:
    """A number or a mapping with `mean`, `low`, `high` as an `Estimate`; None where it is neither, or not finite."""
    bounds = ("mean", "low", "high")
    parts = [value.get(bound, value.get("mean")) for bound in bounds] if isinstance(value, Mapping) else [value] * 3
    numbers = [float(p) for p in parts if isinstance(p, int | float) and not isinstance(p, bool) and math.isfinite(p)]
    return Estimate(*numbers) if len(numbers) == 3 else None


def number(x: float, percent: bool = False) -> str:
    """A figure in few characters: 24.5%, 0.0312, 1,240, 2.1M."""
    if percent:
        share = 100 * x
        text = f"{share:.0f}%" if abs(share - round(share)) < 0.05 else f"{share:.1f}%"
        return text.replace("-", "−")
    size = abs(x)
    if size >= 1e6:
        text = f"{x / 1e6:.3g}M"
    elif size >= 100 or x == int(x):
        text = f"{x:,.0f}"
    else:
        text = f"{x:.2f}" if size >= 0.1 else f"{x:.2g}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """48 s, 2 min 20 s, 3 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def joined(curves: Sequence[Curve]) -> list[Curve]:
    """The curves at the steps that all of them have."""
    steps = curves[0].x
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.x)
    return [Curve(steps, curve.y[np.isin(curve.x, steps)]) for curve in curves]


def smooth(y: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The mean over about a twentieth of the curve around each point.

    At the start, where curves are steep, the window shrinks on both sides; at the end it only looks back.
    """
    place = np.arange(len(y))
    half = np.minimum(len(y) // 40, place)
    total = np.concatenate([[0.0], np.cumsum(y)])
    first, last = place - half, np.minimum(place + half, len(y) - 1)
    return (total[last + 1] - total[first]) / (last + 1 - first)


def parting(true: Float[np.ndarray, " N"], learned: Float[np.ndarray, " N"]) -> tuple[int, float, float] | None:
    """Where the learned reward parts from the true one: (index of the true peak, true loss, learned gain after it).

    None where the true reward does not fall after its peak by more than three times the noise of a smoothed value, or
    where the learned reward does not go on rising (the over-optimisation of Gao et al. 2023, section 3).
    """
    if len(true) < 5:
        return None
    true_line, learned_line = smooth(true), smooth(learned)
    peak = int(np.argmax(true_line))
    window = 2 * (len(true) // 40) + 1
    noise = float(np.std(np.diff(true))) / math.sqrt(2 * window)
    tail = max(len(true) // 10, 1)
    loss = float(true_line[peak] - true_line[-tail:].mean())
    gain = float(learned_line[-tail:].mean() - learned_line[peak])
    return (peak, loss, gain) if loss > 3 * noise and gain > 0 else None


def line_chart(
    curves: Sequence[Curve | None],
    label: str,
    x_label: str = "",
    scatter: bool = False,
    marker: float | None = None,
    width: int = 360,
) -> str:
    """Curves, smoothed, over their raw values: a line if there is one curve, dots if `scatter`, else nothing.

    A curve keeps the colour of its place; None leaves a place empty. `marker` is a vertical line.
    """
    drawn = [(i % COLOURS, curve) for i, curve in enumerate(curves) if curve]
    height, left, right, top, bottom = 200, 46, 52, 10, 36 if x_label else 24
    lines = [(smooth(curve.x) if scatter else curve.x, smooth(curve.y)) for _, curve in drawn]
    x, raw, smoothed = (
        np.concatenate(p) for p in ([c.x for _, c in drawn], [c.y for _, c in drawn], [y for _, y in lines])
    )
    low, high = min(np.quantile(raw, 0.01), smoothed.min()), max(np.quantile(raw, 0.99), smoothed.max())
    x_ticks, y_ticks = _ticks(x.min(), x.max(), 4), _ticks(low, high, 4)

    def across(x_: Any) -> Any:
        return left + (x_ - x.min()) / ((x.max() - x.min()) or 1) * (width - left - right)

    def up(y: Any) -> Any:
        return height - bottom - (np.clip(y, low, high) - low) / ((high - low) or 1) * (height - top - bottom)

    body = []
    for tick in y_ticks:
        body.append(_line("grid", left, width - right, up(tick), up(tick)))
        body.append(_text(left - 6, up(tick) + 4, _tick(tick), "end", "dim"))
    body += [_text(across(tick), height - bottom + 16, _tick(tick), "middle", "dim") for tick in x_ticks]
    if x_label:
        body.append(_text((left + width - right) / 2, height - 4, x_label, "middle", "dim"))
    if marker is not None:
        body.append(_line("reference", across(marker), across(marker), top, height - bottom))
    for (i, curve), (line_x, line_y) in zip(drawn, lines, strict=True):
        if scatter:
            keep = _thinned(len(curve.x))
            points = zip(across(curve.x[keep]), up(curve.y[keep]), strict=True)
            body += [f'<circle class="dot f{i}" cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in points]
        elif len(drawn) == 1:
            body.append(_path(*_envelope(across(curve.x), up(curve.y), 90), f"raw s{i}"))
        keep = _thinned(len(line_x))
        end_x, end_y = across(line_x[-1]), up(line_y[-1])
        body.append(_path(across(line_x[keep]), up(line_y[keep]), f"line s{i}"))
        body.append(f'<circle class="f{i}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3.5"/>')
        if len(drawn) == 1:
            body.append(_text(end_x + 8, end_y + 4, number(float(line_y[-1]))))
    return _svg(width, height, label, body)


def interval_chart(
    rows: Sequence[tuple[str, Estimate]],
    label: str,
    references: Mapping[str, float],
    low: float = 0.0,
    percent: bool = True,
) -> str:
    """Numbers from 0 to 1 as dots with their intervals, a row each; `references` names vertical lines, first the base.

    Blue: the whole interval lies above the base; orange: below it; grey: the base is inside.
    """
    width, left, right, top, step = 400, 104, 56, 26, 34
    height = top + step * len(rows) + 22
    base = next(iter(references.values()))

    def across(share: float) -> float:
        return left + (min(max(share, low), 1.0) - low) / (1 - low) * (width - left - right)

    body = []
    for tick in _ticks(low, 1.0, 4):
        body.append(_line("grid", across(tick), across(tick), top, height - 22))
        body.append(_text(across(tick), height - 6, number(tick, percent), "middle", "dim"))
    for name, share in references.items():
        body.append(_line("reference", across(share), across(share), top - 6, height - 22))
        body.append(_text(across(share), top - 12, name, "middle", "dim"))
    for i, (name, value) in enumerate(rows):
        y = top + step * (i + 0.5)
        colour = 0 if value.low > base else 1 if value.high < base else 5
        mean, least, most = (number(x, percent) for x in (value.mean, value.low, value.high))
        words = f"{name}: {mean} ({least} to {most})"
        if value.high > value.low:
            marks = _line(f"interval s{colour}", across(value.low), across(value.high), y, y)
        else:  # a stem beside an interval would look like a wider one
            marks = _line(f"stem s{colour}", across(base), across(value.mean), y, y)
        marks += f'<circle class="f{colour}" cx="{across(value.mean):.1f}" cy="{y}" r="5.5"/>'
        body.append(f"<g><title>{escape(words)}</title>{marks}</g>")
        body.append(_text(left - 12, y + 4, name, "end") + _text(width, y + 4, mean, "end"))
    return _svg(width, height, label, body)


def stacked_bars(rows: Sequence[tuple[str, Mapping[str, float], str]], label: str, note: str = "") -> str:
    """One bar for each (name, share of every kind of answer, figure at the end); `note` heads that last column."""
    width, left, right, step, top = 400, 102, 44 if any(row[2] for row in rows) else 0, 33, 16 if note else 2
    body = [_text(width, 9, note, "end", "dim")] if note else []
    for i, (name, shares, end) in enumerate(rows):
        x, y = float(left), top + step * i
        for kind, words in KINDS.items():
            share = min(max(shares.get(kind, 0.0), 0.0), 1.0)
            span = share * (width - left - right)
            if span <= 0:
                continue
            body.append(
                f'<rect class="segment k-{kind}" x="{x:.1f}" y="{y}" width="{span:.1f}" height="{step - 7}">'
                f"<title>{escape(f'{name}: {words} {number(share, True)}')}</title></rect>"
            )
            if span > 27:
                body.append(_text(x + span / 2, y + 17, f"{100 * share:.0f}%", "middle", f"on-{kind}"))
            x += span
        body.append(_text(left - 10, y + 17, name, "end") + (_text(width, y + 17, end, "end") if end else ""))
    return _svg(width, top + step * len(rows), label, body)


def heat_map(rows: Sequence[Sequence[tuple[float, str, str]]], label: str) -> str:
    """A grid of cells (value, mark, kind): the higher the value, the deeper the colour. Kind: "", "ended" or "wall".

    Cells that are too small for their value keep the mark alone; a reader who points at one sees both.
    """
    values = [value for row in rows for value, _, kind in row if not kind]
    low, high = min(values, default=0.0), max(values, default=0.0)
    columns = max(map(len, rows))
    width = 400 if columns <= 8 else 760
    side = min(width / columns, 84.0)
    body = []
    for i, row in enumerate(rows):
        for j, (value, mark, kind) in enumerate(row):
            x, y, middle = j * side, i * side, (j + 0.5) * side
            depth = 0.06 + 0.6 * (value - low) / ((high - low) or 1)
            fill = f'class="cell {kind}"' if kind else f'class="cell heat" fill-opacity="{depth:.3f}"'
            cell = f'<rect {fill} x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}"/>'
            shown = _short(value)
            if kind != "wall":
                room = side >= 7 * len(shown)
                if room and not kind:
                    cell += _text(middle, y + side * 0.42, shown, "middle", "figure")
                cell += _text(middle, y + side * (0.78 if room and not kind else 0.62), mark, "middle", "mark")
            words = f"row {i}, column {j}: {mark}" + ("" if kind else f", value {value:.10g}")
            body.append(f"<g><title>{escape(words)}</title>{cell}</g>")
    return _svg(round(columns * side), round(len(rows) * side), label, body)


def _short(x: float) -> str:
    """Three digits that mean something: -13, 0.656, 421."""
    return f"{x:.3g}".replace("-", "−") if abs(x) < 1e6 else number(x)


def log_chart(curve: Curve, label: str, x_label: str = "", aim: float | None = None) -> str:
    """Values above 0 on a logarithmic scale, as measured; `aim` is a dashed line. Values of 0 are left out."""
    kept = curve.y > 0
    x, y = curve.x[kept], np.log10(curve.y[kept])
    width, height, left, right, top, bottom = 420, 220, 46, 16, 10, 36
    marks = [*y, *([math.log10(aim)] if aim else [])]
    low, high = math.floor(min(marks)), math.ceil(max(marks))
    high += high == low

    def across(x_: Any) -> Any:
        return left + (x_ - x.min()) / ((x.max() - x.min()) or 1) * (width - left - right)

    def up(y_: Any) -> Any:
        return height - bottom - (y_ - low) / (high - low) * (height - top - bottom)

    body = []
    for power in range(low, high + 1, max(1, math.ceil((high - low) / 6))):
        body.append(_line("grid", left, width - right, up(power), up(power)))
        body.append(_text(left - 6, up(power) + 4, f"1e{power}".replace("-", "−"), "end", "dim"))
    whole = sorted({round(tick) for tick in _ticks(x.min(), x.max(), 5)})
    body += [_text(across(tick), height - bottom + 16, f"{tick:,}", "middle", "dim") for tick in whole]
    body.append(_text((left + width - right) / 2, height - 2, x_label, "middle", "dim"))
    if aim:
        body.append(_line("reference", left, width - right, up(math.log10(aim)), up(math.log10(aim))))
        body.append(_text(left + 4, up(math.log10(aim)) - 5, "asked for", "start", "dim"))
    body.append(_path(across(x), up(y), "line s0"))
    dots = zip(across(x), up(y), strict=True) if len(x) <= 60 else ()
    body += [f'<circle class="f0" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in dots]
    return _svg(width, height, label, body)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two bounds (steps of 1, 2, 2.5 or 5 times a power of ten)."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def _tick(x: float) -> str:
    return f"{x:,.6g}".replace("-", "−") if abs(x) < 1e6 else number(x)


def _envelope(x: np.ndarray, y: np.ndarray, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest point of every bucket, in order: long curves keep their spikes in few points."""
    if len(x) <= 2 * buckets:
        return x, y
    keep: set[int] = set()
    for part in np.array_split(np.arange(len(x)), buckets):
        keep |= {int(part[np.argmin(y[part])]), int(part[np.argmax(y[part])])}
    order = sorted(keep)
    return x[order], y[order]


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, 150)).astype(int))


def _line(style: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _path(x: np.ndarray, y: np.ndarray, style: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<polyline class="{style}" points="{points}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    shown = words if len(words) <= 17 or anchor != "end" else words[:16] + "…"
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"' + (f' class="{style}"' if style else "")
    return f"<text {place}>{escape(shown)}</text>"


def _svg(width: float, height: float, label: str, body: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(body)}</svg>'
