"""The report as one offline HTML file: plotly and data inside, nothing fetched, every text from the record escaped.

The page forbids itself the network and any script but its own three by a content security policy with their hashes,
so that even a hole in the escaping could neither run nor send anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from hwnas.core.estimate import Metric
from hwnas.core.measurement import Fidelity
from hwnas.records import write_atomically
from hwnas.report import figures, numbers
from hwnas.report.plots import front_svg
from hwnas.report.record import Finalist, RunRecord

TEMPLATES = Path(__file__).parent / "templates"
PLOTLY_SETTINGS = "window.PlotlyConfig = {MathJaxConfig: 'local'};"


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """A row of the winner's table: a metric, its limit, what was estimated and measured, and the verdict."""

    metric: Metric
    limit: float | None
    mean: float | None
    high: float | None
    measured: float | None
    spread: str | None
    fits: bool | None

    @property
    def used(self) -> float | None:
        """Measured (else estimated high) as a share of the limit."""
        value = self.measured if self.measured is not None else self.high
        return value / self.limit if value is not None and self.limit else None


def write_report(run: RunRecord, path: Path) -> Path:
    """Write the report of a run as one HTML file and return its path. Raises HwnasError if the disk refuses."""
    write_atomically(path, report_html(run))
    return path


def report_html(run: RunRecord) -> str:
    """The page's text."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs  # what plotly itself puts inline for include_plotlyjs=True

    drawings = _drawings(run)
    plotly = get_plotlyjs() if drawings else ""
    page_script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    scripts = [PLOTLY_SETTINGS, plotly, page_script] if drawings else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    environment.filters.update(percent=numbers.percent, signed=numbers.signed_percent, kind=_label(run))
    environment.globals.update(show=numbers.show, come_by=numbers.come_by, wilson=numbers.wilson_interval)
    winner = run.winner or next(iter(run.finalists), None)
    return environment.get_template("report.html.j2").render(
        run=run,
        found=sentence(run),
        chosen=winner,
        lines=budget_lines(run, winner) if winner else [],
        finalists=[_finalist_row(run, f) for f in run.finalists],
        trial_rows=[(t, _overview(run, t.estimates, t.measured)) for t in run.front_trials],
        counts=_counts(run),
        axes=[(m, numbers.metric_label(m, run.fidelity)) for m in figures.front_metrics(run)],
        known=run.fidelity.of(run.objective).participle,
        hardware=run.fidelity is Fidelity.HARDWARE,
        drawn=frozenset(key.partition(":")[0] for key in drawings),
        settings=yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True) if run.settings else "",
        commands=run.commands or _commands(run),
        slowest=max((t.ratio for t in run.toolchains), default=1.0),
        worst=max((abs(r.mean_regret_points) for r in run.regret_bench or ()), default=0.0) or 1.0,
        # The only unescaped values: files of this package and of plotly, JSON with every `<`, `>` and `&` written as
        # \u003c, and an SVG whose texts plots.py escapes.
        policy=Markup(_policy(scripts)),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        drawings=Markup(script_json(drawings)),
        static_front=Markup(front_svg(run)),
    )


def _shown(value: object) -> object:
    """What an expression of the template puts on the page: text of the record in visible characters only."""
    return numbers.visible(value) if type(value) is str else value


def script_json(value: Any) -> str:
    """JSON that cannot leave a script element, whatever its strings hold. Raises ValueError for NaN or infinity."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def sentence(run: RunRecord) -> str:
    """What was found, in one sentence with n, interval, readings, budget, device, fidelity and date."""
    budget = ", ".join(f"{numbers.metric_label(m, run.fidelity)} ≤ {numbers.show(m, v)}" for m, v in run.budget.items())
    where = f"on {run.device} ({run.machine}; fidelity: {run.fidelity}), {run.created[:10]}"
    winner = run.winner
    if winner is None:
        evaluated = sum(t.accuracy is not None for t in run.trials)
        feasible = sum(t.feasible for t in run.trials)
        known = f"{len(run.trials):,} trials ({evaluated:,} with a known accuracy, {feasible:,} within the budget as estimated)"
        taken = len(run.finalists)
        known += (
            f"; {taken} finalist{'s were' if taken > 1 else ' was'} {run.fidelity.of(run.objective).participle} and none of them was chosen"
            if taken
            else ""
        )
        return f"No network was found{' within ' + budget if budget else ''} in {known}{_closest(run)}, {where}."
    said = ["A network"]
    if winner.test_accuracy is not None:
        low, high = numbers.wilson_interval(winner.test_accuracy, winner.test_samples)
        interval = f"95 % interval {numbers.percent(low)} to {numbers.percent(high)}"
        said.append(
            f"with {numbers.percent(winner.test_accuracy)} test accuracy (n{numbers.NBSP}={numbers.NBSP}{winner.test_samples:,}, {interval})"
        )
    value = winner.value(run.objective)
    name = numbers.metric_label(run.objective, run.fidelity)
    if value is not None:
        readings = winner.readings.get(run.objective)
        spread = f", {numbers.show_range(run.objective, readings)} over {len(readings)} readings" if readings else ""
        measured = run.fidelity.of(run.objective).participle
        said.append(f"and {numbers.show(run.objective, value)} {measured} {name}{spread},")
    if budget:
        said.append(f"{'meets' if winner.meets_budget else 'misses'} the budget of {budget}")
    else:
        said.append("was found, without a budget,")
    return " ".join([*said, where]) + "."


def _closest(run: RunRecord) -> str:
    """How far the least offending trial is from the budget at the high end of its estimates; empty where one fits."""
    misses: list[tuple[float, int, Metric]] = []
    for trial in run.trials:
        ends = {
            m: trial.measured[m] if m in trial.measured else trial.estimates[m][1]
            for m in (*trial.measured, *trial.estimates)
        }
        if all(m in ends for m in run.budget):
            over = [(ends[m] / limit - 1, m) for m, limit in run.budget.items() if limit > 0]
            misses += [(share, trial.number, metric) for share, metric in sorted(over)[-1:]]
    if not misses or min(misses)[0] <= 0:
        return ""
    share, number, metric = min(misses)
    return f"; the closest, trial {number}, is over in {numbers.metric_label(metric, run.fidelity)} by {numbers.percent(share)}"


def budget_lines(run: RunRecord, finalist: Finalist) -> list[BudgetLine]:
    """A row for every limited metric, then for the others that are known of this finalist."""
    known = dict.fromkeys([*run.budget, run.objective, *finalist.readings, *finalist.measured, *finalist.estimate])
    rows = []
    for metric in known:
        mean, high = finalist.estimate.get(metric, (None, None))
        measured, limit = finalist.value(metric), run.budget.get(metric)
        readings = finalist.readings.get(metric)
        fits: bool | None = None
        if limit is not None and metric in finalist.violations:
            violation = finalist.violations[metric]
            fits = None if violation is None else violation <= 0
        elif limit is not None and measured is not None:
            fits = (max(readings) if readings else measured) <= limit
        spread = f"{numbers.show_range(metric, readings)}, {len(readings)} readings" if readings else None
        if (limit, mean, measured) != (None, None, None):
            rows.append(BudgetLine(metric, limit, mean, high, measured, spread, fits))
    return rows


def _drawings(run: RunRecord) -> dict[str, figures.Figure]:
    """The figures that have something to show, by the id of their place in the page."""
    drawn = {f"front:{metric}": figures.front_figure(run, metric) for metric in figures.front_metrics(run)}
    loss, accuracy = figures.curve_figures(run)
    drawn |= {
        "predicted": figures.predicted_figure(run), "loss": loss, "accuracy": accuracy,
        "breakdown": figures.breakdown_figure(run),
    }  # fmt: skip
    return {key: figure for key, figure in drawn.items() if figure and figure["data"]}


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    allowed = f"script-src {hashes}; " if hashes else ""
    return f"default-src 'none'; {allowed}style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def _label(run: RunRecord) -> Any:
    return lambda metric: numbers.metric_label(metric, run.fidelity)


def _overview(run: RunRecord, estimates: Mapping[Metric, tuple[float, float]], measured: Mapping[Metric, float]) -> str:
    parts = [
        f"{numbers.metric_label(m, run.fidelity)} {numbers.show(m, v)} {numbers.come_by(m, run.fidelity)}"
        for m, v in measured.items()
    ]
    parts += [
        f"{numbers.metric_label(m, run.fidelity)} {numbers.show(m, v[0])}"
        for m, v in estimates.items()
        if m not in measured
    ]
    return ", ".join(parts)


def _finalist_row(run: RunRecord, finalist: Finalist) -> dict[str, Any]:
    value = finalist.value(run.objective)
    estimate = finalist.estimate.get(run.objective)
    seeds = finalist.val_accuracies
    over = [
        f"{numbers.metric_label(m, run.fidelity)} " + (f"not {numbers.come_by(m, run.fidelity)}" if v is None else f"over by {numbers.percent(v)}")
        for m, v in finalist.violations.items() if v is None or v > 0
    ]  # fmt: skip
    return {
        "finalist": finalist, "value": value, "readings": finalist.readings.get(run.objective),
        "mean": fmean(seeds) if seeds else None, "over": ", ".join(over),
        "error": estimate[0] / value - 1 if estimate and value else None,
    }  # fmt: skip


def _counts(run: RunRecord) -> dict[str, int]:
    trained = sum(t.accuracy is not None for t in run.trials)
    screened = sum(t.accuracy is None and t.screened_loss is not None for t in run.trials)
    return {
        "all": len(run.trials), "trained": trained, "screened": screened, "estimated": len(run.trials) - trained - screened,
        "feasible": sum(t.feasible for t in run.trials),
    }  # fmt: skip


def _commands(run: RunRecord) -> tuple[str, ...]:
    """The commands that repeat the run from the settings shown, in a folder named after the device."""
    folder = shlex.quote(f"run-{run.device}")
    verify = f"hwnas verify {folder} --top {max(1, len(run.finalists))}"
    return (f"hwnas search run.yaml --seed {run.seed} --out {folder}", verify, f"hwnas report {folder} -o report.html")
