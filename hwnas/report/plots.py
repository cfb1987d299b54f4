"""A static picture of the front: one small SVG without script, font or network, for a README or a page without script.

It carries its own colours for light and dark, and every text from the record is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape as _escape

from hwnas.report.figures import finalist_accuracy, is_wide
from hwnas.report.numbers import axis_scale, axis_title, percent, show, visible
from hwnas.report.record import RunRecord

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 74, 54
_STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#59636e}.t{font-size:16px;font-weight:600;fill:#1f2328}
.k{fill:#1f2328}.g{stroke:#d1d9e0;stroke-width:1}.a{stroke:#818b98;stroke-width:1}.in{fill:#0067b8;fill-opacity:.6}
.out{stroke:#8c959f;stroke-width:1.6;fill:none}.f{stroke:#0067b8;stroke-width:2.2;fill:none;stroke-linejoin:round}
.on{fill:#0067b8;stroke:#fff;stroke-width:1.5}.w{fill:#c2410c;stroke:#fff;stroke-width:1.2}.e{stroke:#c2410c;stroke-width:1.8}
.b{stroke:#b3261e;stroke-width:1.5;stroke-dasharray:6 4}.bt{fill:#b3261e}
@media (prefers-color-scheme:dark){text{fill:#9198a1}.t,.k{fill:#f0f6fc}.g{stroke:#30363d}.a{stroke:#6e7681}
.in,.on{fill:#58a6ff}.f{stroke:#58a6ff}.on,.w{stroke:#0d1117}.w{fill:#ff9a57}.e{stroke:#ff9a57}.out{stroke:#7d8590}
.b{stroke:#ff7b72}.bt{fill:#ff7b72}}
"""


def escape(text: str) -> str:
    """Text for XML: markup escaped, characters that XML does not allow replaced."""
    return _escape(visible(text))


def nice_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover low..high, about that many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within low..high, for a logarithmic axis (low > 0)."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def front_svg(run: RunRecord) -> str:
    """The front as an SVG document: trials, front line, finalists with the range of their readings, budget line."""
    metric = run.objective
    trials = [
        (v, 100 * t.accuracy, t.feasible)
        for t in run.trials
        if t.accuracy is not None and (v := t.value(metric)) is not None
    ]
    finalists = [
        (f, v, 100 * a) for f in run.finalists
        if (v := f.value(metric)) is not None and (a := finalist_accuracy(f)) is not None
    ]  # fmt: skip
    limit = run.budget.get(metric)
    values = [v for v, _, _ in trials] + [r for f, v, _ in finalists for r in f.readings.get(metric, (v,))]
    scale, unit = axis_scale(metric, [*values, *([limit] if limit else [])])
    title = f"{run.title}: accuracy against {axis_title(metric, run.fidelity, '')}"
    shapes: list[str] = []
    if values:
        xs = [v / scale for v in values] + ([limit / scale] if limit else [])
        ys = [a for _, a, _ in trials] + [a for _, _, a in finalists]
        x, ticks = _horizontal(xs)
        y, marks = _vertical(ys)
        shapes += _grid(x, ticks, y, marks)
        if limit:
            at = x(limit / scale)
            side = -6 if at > WIDTH * 0.6 else 6
            anchor = "end" if side < 0 else "start"
            shapes.append(f'<path class="b" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            shapes.append(
                f'<text class="bt" x="{at + side:.1f}" y="{HEIGHT - BOTTOM - 8}" text-anchor="{anchor}">budget {escape(show(metric, limit))}</text>'
            )
        for value, accuracy, feasible in sorted(trials, key=lambda t: t[2]):
            u, v = x(value / scale), y(accuracy)
            shapes.append(
                f'<circle class="in" cx="{u:.1f}" cy="{v:.1f}" r="3.6"/>'
                if feasible
                else f'<path class="out" d="{_cross(u, v)}"/>'
            )
        front = [
            (x(v / scale), y(100 * (t.accuracy or 0))) for t in run.front_trials if (v := t.value(metric)) is not None
        ]
        if front:
            path = f"M{front[0][0]:.1f} {front[0][1]:.1f}" + "".join(f"H{u:.1f}V{v:.1f}" for u, v in front[1:])
            shapes.append(f'<path class="f" d="{path}"/>')
            shapes += [f'<circle class="on" cx="{u:.1f}" cy="{v:.1f}" r="5"/>' for u, v in front]
        for finalist, value, accuracy in sorted(finalists, key=lambda item: item[0].winner):
            readings = finalist.readings.get(metric, (value,))
            u, v = x(value / scale), y(accuracy)
            ends = x(min(readings) / scale), x(max(readings) / scale)
            shapes.append(
                f'<path class="e" d="M{ends[0]:.1f} {v:.1f}H{ends[1]:.1f}M{ends[0]:.1f} {v - 4:.1f}v8M{ends[1]:.1f} {v - 4:.1f}v8"/>'
            )
            mark = _star(u, v, 9.5) if finalist.winner else f"M{u:.1f} {v - 6.5:.1f}l6.5 6.5-6.5 6.5-6.5-6.5z"
            shapes.append(f'<path class="w" d="{mark}"/>')
        shapes.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(axis_title(metric, run.fidelity, unit))}</text>'
        )
        shapes.append(
            f'<text transform="translate(17 {(TOP + HEIGHT - BOTTOM) / 2})rotate(-90)" text-anchor="middle">accuracy in %</text>'
        )
        shapes += _legend(
            any(t[2] for t in trials),
            not all(t[2] for t in trials),
            bool(front),
            finalists,
            run.fidelity.of(metric).participle,
        )
    else:
        shapes.append(
            f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">No trial has both an accuracy and a value here.</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'style="max-width:100%;height:auto" aria-label="{escape(_described(run, title))}"><title>{escape(title)}</title>'
        f'<style>{_STYLE}</style><text class="t" x="16" y="26">{escape(_short(run.title, 70))}</text>{"".join(shapes)}</svg>\n'
    )


def _described(run: RunRecord, title: str) -> str:
    winner = run.winner
    if winner is None:
        return f"{title}; no winner"
    accuracy = finalist_accuracy(winner)
    said = "" if accuracy is None else f" with {percent(accuracy)} accuracy"
    return f"{title}; winner{said} at {show(run.objective, winner.value(run.objective))} on {run.device}"


def _horizontal(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    span = WIDTH - LEFT - RIGHT
    if is_wide(values):
        low, high = min(values) / 1.15, max(values) * 1.15
        return lambda v: LEFT + span * math.log(v / low) / math.log(high / low), log_ticks(low, high)
    low, high = _padded(values)
    low = max(0.0, low)
    return lambda v: LEFT + span * (v - low) / (high - low), nice_ticks(low, high, 7)


def _vertical(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    low, high = _padded(values)
    span = HEIGHT - TOP - BOTTOM
    return lambda v: TOP + span * (high - v) / (high - low), [t for t in nice_ticks(low, high) if t <= 100]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _grid(
    x: Callable[[float], float], ticks: list[float], y: Callable[[float], float], marks: list[float]
) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    lines = "".join(f"M{LEFT} {y(m):.1f}H{right}" for m in marks) + "".join(
        f"M{x(t):.1f} {TOP}V{bottom}" for t in ticks
    )
    return [
        f'<path class="g" d="{lines}"/>' if lines else "",
        f'<path class="a" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>',
        *(f'<text x="{x(t):.1f}" y="{bottom + 19}" text-anchor="middle">{t:.6g}</text>' for t in ticks),
        *(f'<text x="{LEFT - 8}" y="{y(m) + 4:.1f}" text-anchor="end">{m:.6g}</text>' for m in marks),
    ]


def _legend(
    feasible: bool, over: bool, front: bool, finalists: Sequence[tuple[object, float, float]], known: str
) -> list[str]:
    entries: list[tuple[str, str]] = []
    if feasible:
        entries.append(('<circle class="in" cx="7" cy="0" r="4"/>', "within budget"))
    if over:
        entries.append((f'<path class="out" d="{_cross(7, 0)}"/>', "over budget"))
    if front:
        entries.append(('<path class="f" d="M-1 0H15"/><circle class="on" cx="7" cy="0" r="5"/>', "front"))
    if any(not getattr(f, "winner", False) for f, _, _ in finalists):
        entries.append(('<path class="w" d="M7-6.5l6.5 6.5-6.5 6.5-6.5-6.5z"/>', f"finalist, {known}"))
    if any(getattr(f, "winner", False) for f, _, _ in finalists):
        entries.append((f'<path class="w" d="{_star(7, 0, 9)}"/>', f"winner, {known}"))
    drawn, at = [], 16.0
    for mark, name in entries:
        drawn.append(f'<g transform="translate({at:.0f} 50)">{mark}<text class="k" x="22" y="4">{name}</text></g>')
        at += 22 + 7.2 * len(name) + 18
    return drawn


def _cross(u: float, v: float) -> str:
    return f"M{u - 3.5:.1f} {v - 3.5:.1f}l7 7m0-7l-7 7"


def _star(u: float, v: float, r: float) -> str:
    corners = []
    for i in range(10):
        radius, angle = r if i % 2 == 0 else r * 0.42, math.pi * (i / 5 - 0.5)
        corners.append(f"{u + radius * math.cos(angle):.1f} {v + radius * math.sin(angle):.1f}")
    return "M" + "L".join(corners) + "z"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
