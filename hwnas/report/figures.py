"""The interactive plots of the report, as plain plotly figures (dicts): what is drawn, not how the page looks.

Colours are names of the page's CSS variables (`@accent`), resolved in the browser, so that light, dark and print have
one source. Text from the record is escaped for plotly's own markup (`<b>`, `<a href>`, entities), and only ever
travels as data, never inside a template.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from hwnas.core.estimate import Metric
from hwnas.report.numbers import axis_scale, axis_title, come_by, metric_label, percent, show, show_range, visible
from hwnas.report.record import Finalist, RecordedTrial, RunRecord

Figure = dict[str, Any]
SERIES = 6
"""How many series colours the page defines (`--s1` ...); more finalists than that differ by dash as well."""
DASHES = ("solid", "dash", "dot", "dashdot")
MAX_KERNELS = 18
LOG_SPAN = 15.0
"""Axes become logarithmic where the largest value is this many times the smallest."""
_PATTERNS = {"table": "", "measured": "", "predictor": "/", "roofline": "x", "exact": "."}
_SOURCE_COLOURS = {"table": "@s1", "measured": "@s1", "predictor": "@s2", "roofline": "@s4", "exact": "@s3"}


def plain(text: str, width: int = 0) -> str:
    """Text that plotly shows as it is; broken into lines of `width` characters where width is not 0."""
    text = visible(text)
    pieces = [text[i : i + width] for i in range(0, len(text), width)] if width else [text]
    return "<br>".join(p.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for p in pieces)


def is_wide(values: Iterable[float]) -> bool:
    """Whether values span so much that a logarithmic axis tells more; zero has no place on one."""
    known = list(values)
    return bool(known) and min(known) > 0 and max(known) / min(known) > LOG_SPAN


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 12, "font": {"size": 13, "color": "@muted"}},
        "gridcolor": "@grid", "linecolor": "@rule", "tickcolor": "@rule", "zeroline": False, "showline": True,
        "ticks": "outside", "ticklen": 4, "tickfont": {"size": 12, "color": "@muted"}, "automargin": True, **more,
    }  # fmt: skip


def _layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "xaxis": x, "yaxis": y, "paper_bgcolor": "@page", "plot_bgcolor": "@page", "autosize": True,
        "margin": {"l": 52, "r": 18, "t": 12, "b": 48}, "hovermode": "closest",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "@ink"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 12, "color": "@ink"}},
        "hoverlabel": {"bgcolor": "@raised", "bordercolor": "@rule", "align": "left", "font": {"color": "@ink", "size": 12}},
        "modebar": {"bgcolor": "@page", "color": "@faint", "activecolor": "@accent"},
        **more,
    }  # fmt: skip


def _value_axis(metric: Metric, run: RunRecord, unit: str, values: Sequence[float]) -> dict[str, Any]:
    axis = _axis(axis_title(metric, run.fidelity, unit))
    return {**axis, "type": "log", "dtick": "D2"} if is_wide(values) else axis


def _trial_text(run: RunRecord, trial: RecordedTrial) -> list[str]:
    lines = []
    for metric in dict.fromkeys([*trial.estimates, *trial.measured]):
        said = []
        if metric in trial.estimates:
            mean, high = trial.estimates[metric]
            said.append(f"{show(metric, mean)} estimated" + (f", at most {show(metric, high)}" if high > mean else ""))
        if metric in trial.measured:
            said.append(f"{show(metric, trial.measured[metric])} {come_by(metric, run.fidelity)}")
        lines.append(f"{plain(metric_label(metric, run.fidelity))}: {'; '.join(said)}")
    if trial.screened_loss is not None:
        lines.append(f"screened loss: {trial.screened_loss:.3g}")
    return [str(trial.number), plain(trial.encoded, 44), "<br>".join(lines)]


def _finalist_text(run: RunRecord, finalist: Finalist) -> list[str]:
    lines = []
    for metric in dict.fromkeys([*finalist.readings, *finalist.measured, *finalist.estimate]):
        said = show(metric, finalist.value(metric))
        if metric in finalist.readings:
            said += f" ({show_range(metric, finalist.readings[metric])}, {len(finalist.readings[metric])} readings)"
        if metric in finalist.estimate:
            said += f"; {show(metric, finalist.estimate[metric][0])} estimated"
        lines.append(f"{metric_label(metric, run.fidelity)}: {said}")
    if finalist.test_accuracy is not None:
        lines.append(f"test accuracy: {percent(finalist.test_accuracy)} (n = {finalist.test_samples})")
    lines.append("meets the budget" if finalist.meets_budget else "misses the budget")
    return ["winner" if finalist.winner else "finalist", plain(finalist.encoded, 44), "<br>".join(lines)]


def finalist_accuracy(finalist: Finalist) -> float | None:
    """Where a finalist stands on the accuracy axis: the mean over its seeds, on validation data."""
    return fmean(finalist.val_accuracies) if finalist.val_accuracies else finalist.test_accuracy


def front_metrics(run: RunRecord) -> list[Metric]:
    """The metrics that accuracy can be drawn against, the objective first."""
    drawable = [t for t in run.trials if t.accuracy is not None]
    known = {m for t in drawable for m in (*t.estimates, *t.measured)}
    known |= {m for f in run.finalists for m in (*f.readings, *f.measured)}
    return [m for m in dict.fromkeys([run.objective, *run.budget, *sorted(known)]) if m in known]


def front_figure(run: RunRecord, metric: Metric) -> Figure:
    """Accuracy against a metric: evaluated trials by feasibility, front, finalists with their readings, the limit."""
    placed = [(t, v) for t in run.trials if t.accuracy is not None and (v := t.value(metric)) is not None]
    finalists = [
        (f, v, a) for f in run.finalists
        if (v := f.value(metric)) is not None and (a := finalist_accuracy(f)) is not None
    ]  # fmt: skip
    limit = run.budget.get(metric)
    values = [v for _, v in placed] + [v for _, v, _ in finalists] + ([limit] if limit is not None else [])
    scale, unit = axis_scale(metric, values)
    hover = "<b>%{customdata[0]}</b> · %{y:.1f} %<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>"
    traces: list[dict[str, Any]] = []

    def points(name: str, chosen: list[tuple[RecordedTrial, float]], **style: Any) -> None:
        if chosen:
            traces.append({
                "type": "scatter", "name": name, "x": [v / scale for _, v in chosen],
                "y": [100 * (t.accuracy or 0.0) for t, _ in chosen], "customdata": [_trial_text(run, t) for t, _ in chosen],
                "hovertemplate": hover.replace("<b>", "<b>trial "), **style,
            })  # fmt: skip

    points(
        "over budget", [(t, v) for t, v in placed if not t.feasible], mode="markers",
        marker={"symbol": "x-thin-open", "size": 7, "color": "@faint", "line": {"width": 1.6, "color": "@faint"}},
    )  # fmt: skip
    points(
        "within budget", [(t, v) for t, v in placed if t.feasible], mode="markers",
        marker={"symbol": "circle", "size": 8, "color": "@s1", "opacity": 0.75, "line": {"width": 1, "color": "@page"}},
    )  # fmt: skip
    if metric == run.objective:
        points(
            "front", [(t, v) for t in run.front_trials if (v := t.value(metric)) is not None], mode="lines+markers",
            line={"color": "@s1", "width": 2, "shape": "hv"},
            marker={"symbol": "circle", "size": 11, "color": "@s1", "line": {"width": 1.5, "color": "@page"}},
        )  # fmt: skip
    for name, symbol, size, winner in (("finalist", "diamond", 11, False), ("winner", "star", 18, True)):
        chosen = [item for item in finalists if item[0].winner is winner]
        if not chosen:
            continue
        readings = [f.readings.get(metric, (v,)) for f, v, _ in chosen]
        seeds = [f.val_accuracies or (a,) for f, _, a in chosen]
        traces.append({
            "type": "scatter", "name": f"{name}, {run.fidelity.of(run.objective).participle}", "mode": "markers",
            "x": [v / scale for _, v, _ in chosen], "y": [100 * a for _, _, a in chosen],
            "error_x": _range([(max(r) - v) / scale for r, (_, v, _) in zip(readings, chosen)],
                              [(v - min(r)) / scale for r, (_, v, _) in zip(readings, chosen)]),
            "error_y": _range([100 * (max(s) - a) for s, (_, _, a) in zip(seeds, chosen)],
                              [100 * (a - min(s)) for s, (_, _, a) in zip(seeds, chosen)]),
            "marker": {"symbol": symbol, "size": size, "color": "@s2", "line": {"width": 1.2, "color": "@page"}},
            "customdata": [_finalist_text(run, f) for f, _, _ in chosen], "hovertemplate": hover,
        })  # fmt: skip
    shapes, notes = [], []
    x = _value_axis(metric, run, unit, values)
    if limit is not None:
        shapes.append({
            "type": "line", "x0": limit / scale, "x1": limit / scale, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": "@bad", "width": 1.5, "dash": "dash"}, "layer": "below",
        })  # fmt: skip
        at = math.log10(limit / scale) if x.get("type") == "log" else limit / scale
        notes.append({
            "x": at, "y": 0.02, "yref": "paper", "xanchor": "left", "yanchor": "bottom", "textangle": -90, "xshift": 2,
            "text": f"budget {show(metric, limit)}", "showarrow": False, "font": {"size": 12, "color": "@bad"},
        })  # fmt: skip
    return {"data": traces, "layout": _layout(x, _axis("accuracy in %"), shapes=shapes, annotations=notes)}


def _range(plus: list[float], minus: list[float]) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "array": [max(0.0, p) for p in plus], "arrayminus": [max(0.0, m) for m in minus],
        "color": "@s2", "thickness": 1.6, "width": 5,
    }  # fmt: skip


def predicted_figure(run: RunRecord) -> Figure:
    """Measured against predicted, out of fold: the diagonal is perfect, at most 1 - confidence may lie over the bound."""
    quality = run.predictor
    if quality is None or not quality.points:
        return {}
    known = come_by(quality.metric, run.fidelity)
    everything = [v for point in quality.points for v in point]
    scale, unit = axis_scale(quality.metric, everything)
    low, high = min(everything) / scale, max(everything) / scale
    wide = is_wide(everything)
    ends = [low * 0.9, high * 1.1] if wide else [max(0.0, low - 0.06 * (high - low)), high + 0.06 * (high - low)]
    line = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "x": ends}
    traces: list[dict[str, Any]] = [
        {**line, "name": "perfect", "y": ends, "line": {"color": "@muted", "width": 1.5}},
    ]
    if quality.bound_ratio is not None:
        traces.append({
            **line, "name": f"upper bound ({percent(run.confidence, 0)})", "y": [quality.bound_ratio * e for e in ends],
            "line": {"color": "@s2", "width": 1.5, "dash": "dash"},
        })  # fmt: skip
    bound = quality.bound_ratio
    for name, symbol, colour, over in (
        ("network", "circle", "@s1", False),
        ("network over its bound", "triangle-up", "@s2", True),
    ):
        chosen = [(p, m) for p, m in quality.points if (bound is not None and m > bound * p) is over]
        if chosen:
            traces.append({
                "type": "scatter", "mode": "markers", "name": name, "x": [p / scale for p, _ in chosen],
                "y": [m / scale for _, m in chosen],
                "customdata": [[show(quality.metric, p), show(quality.metric, m), f"{p / m - 1:+.1%}" if m else ""] for p, m in chosen],
                "hovertemplate": f"predicted %{{customdata[0]}}<br>{known} %{{customdata[1]}}<br>error %{{customdata[2]}}<extra></extra>",
                "marker": {"symbol": symbol, "size": 8, "color": colour, "opacity": 0.8, "line": {"width": 1, "color": "@page"}},
            })  # fmt: skip
    axis = {"type": "log", "dtick": "D2"} if wide else {}
    x = _axis("predicted " + axis_title(quality.metric, run.fidelity, unit), **axis)
    y = _axis(f"{known} " + axis_title(quality.metric, run.fidelity, unit), **axis)
    return {"data": traces, "layout": _layout(x, y)}


def curve_figures(run: RunRecord) -> tuple[Figure, Figure]:
    """Loss and validation accuracy by epoch, a line for each finalist and seed; empty where none was kept."""
    losses: list[dict[str, Any]] = []
    accuracies: list[dict[str, Any]] = []
    for index, finalist in enumerate(run.finalists):
        name = f"{'winner' if finalist.winner else 'finalist'} {index + 1}"
        style = {"color": f"@s{index % SERIES + 1}", "width": 2, "dash": DASHES[index % len(DASHES)]}
        for into, what in ((losses, "losses"), (accuracies, "val_accuracies")):
            first = True
            for curve in finalist.curves:
                values = [100 * v if what == "val_accuracies" else v for v in getattr(curve, what)]
                if values:
                    into.append({
                        "type": "scatter", "mode": "lines+markers", "x": list(range(1, len(values) + 1)), "y": values,
                        "name": name, "legendgroup": name, "showlegend": first, "line": style, "marker": {"size": 4},
                        "hovertemplate": f"{name}, seed {curve.seed}<br>epoch %{{x}}: %{{y:.4~g}}<extra></extra>",
                    })  # fmt: skip
                    first = False
    epochs = _axis("epoch", tickformat="d")
    return (
        {"data": losses, "layout": _layout(epochs, _axis("training loss"))} if losses else {},
        {"data": accuracies, "layout": _layout(epochs, _axis("validation accuracy in %"))} if accuracies else {},
    )


def breakdown_figure(run: RunRecord) -> Figure:
    """The winner's kernels by class, largest first; colour and pattern say where each number came from."""
    parts = run.breakdown
    if parts is None or not parts.kernels:
        return {}
    ordered = sorted(parts.kernels, key=lambda k: (-k.total, k.op, k.source))
    shown, rest = ordered[:MAX_KERNELS], ordered[MAX_KERNELS:]
    labels = [plain(f"{k.op if len(k.op) <= 34 else k.op[:33] + '…'}  ×{k.count}") for k in shown]
    labels = [
        label + "\u200b" * labels[:i].count(label) for i, label in enumerate(labels)
    ]  # equal labels would share a bar
    scale, unit = axis_scale(parts.metric, [k.total for k in shown])
    total = parts.isolated or 1.0
    traces = []
    for source in dict.fromkeys(k.source for k in shown):
        chosen = [(label, k) for label, k in zip(labels, shown) if k.source == source]
        traces.append({
            "type": "bar", "orientation": "h", "name": f"from {source}", "y": [label for label, _ in chosen],
            "x": [k.total / scale for _, k in chosen],
            "customdata": [[plain(k.op, 44), show(parts.metric, k.total), percent(k.total / total), k.count] for _, k in chosen],
            "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}, %{customdata[2]} of the sum, %{customdata[3]} times<extra></extra>",
            "marker": {
                "color": _SOURCE_COLOURS[source], "line": {"width": 0},
                "pattern": {"shape": _PATTERNS[source], "fillmode": "overlay", "fgcolor": "@page", "size": 7, "solidity": 0.25},
            },
        })  # fmt: skip
    if rest:
        amount = sum(k.total for k in rest)
        labels.append(f"{len(rest)} more classes")
        traces.append({
            "type": "bar", "orientation": "h", "name": "the rest", "y": labels[-1:], "x": [amount / scale],
            "marker": {"color": "@faint"}, "hovertemplate": f"{show(parts.metric, amount)}<extra></extra>",
        })  # fmt: skip
    x = _axis(axis_title(parts.metric, run.fidelity, unit), rangemode="tozero")
    y = _axis(
        "", type="category", categoryorder="array", categoryarray=labels[::-1], showgrid=False, ticks="", side="left"
    )
    height = 110 + 26 * len(labels)
    return {"data": traces, "layout": _layout(x, y, barmode="overlay", bargap=0.3, height=height)}
