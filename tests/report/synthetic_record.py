"""Synthetic run records for the report's tests: made up by a seeded generator, plausible, and measured by nobody."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.core.estimate import Metric
from hwnas.core.measurement import Fidelity
from hwnas.report.record import RunRecord

HOSTILE = (
    '<script>window.broken=1</script></script><img src=x onerror="window.broken=1">\'"&amp;{{7*7}}<b>$x$@ink \u202e'
)
"""Text that tries to leave every place it could be put in."""


def full_record(
    *,
    fidelity: Fidelity = Fidelity.HARDWARE,
    objective: Metric = "latency",
    text: str = "",
    trials: int = 140,
    seed: int = 7,
) -> RunRecord:
    """A record that has everything; `text` is appended to every text a record can hold."""
    rng = np.random.default_rng(seed)
    unit = 1e-6 if objective == "latency" else 6e3  # a microsecond, or so many instructions
    limit = 420 * unit
    rows: list[dict[str, Any]] = []
    for number in range(trials):
        size = float(rng.lognormal(6.0, 0.5))
        mean = size * unit
        accuracy = float(np.clip(0.991 - 13 / size - abs(rng.normal(0, 0.02)), 0.2, 0.995))
        flash = float(round(9_000 + 210 * size + rng.normal(0, 4000)))
        fully, screened = number % 3 != 2, number % 6 == 2
        feasible = mean * 1.11 <= limit and flash <= 2**17
        rows.append({
            "number": number, "encoded": f"stem:8k3s2 / mb:w{8 * (1 + number % 5)}e2k3d2 / ds:w{16 * (1 + number % 4)}k5d1{text}",
            "accuracy": accuracy if fully else None, "feasible": feasible,
            "estimates": {objective: [mean, mean * 1.11], "flash": [max(flash, 4e3), max(flash, 4e3)], "macs": [size * 2400, size * 2400]},
            "measured": {objective: mean * float(rng.normal(1, 0.03))} if number % 7 == 0 else {},
            "screened_loss": float(rng.uniform(0.3, 1.9)) if screened else None,
        })  # fmt: skip
    front = _front(rows, objective)
    finalists = []
    for place, number in enumerate(reversed(front[-3:])):
        row = rows[number]
        base = (row["measured"].get(objective) or row["estimates"][objective][0]) * (1.31 if place == 1 else 0.985)
        readings = [base * float(1 + abs(rng.normal(0, 0.012))) for _ in range(5 + place)]
        over = max(readings) / limit - 1
        epochs = 12
        finalists.append({
            "encoded": row["encoded"], "winner": place == 0, "val_accuracies": [row["accuracy"] + d for d in (-0.004, 0.001, 0.003)],
            "test_accuracy": round((row["accuracy"] - 0.006) * 1000) / 1000, "test_samples": 1000,
            "estimate": {objective: row["estimates"][objective], "flash": row["estimates"]["flash"]},
            "readings": {objective: readings}, "measured": {"flash": row["estimates"]["flash"][0] + 320},
            "meets_budget": over <= 0, "violations": {objective: over, "flash": -0.31},
            "curves": [{
                "seed": s,
                "losses": [2.1 * float(np.exp(-e / 3.2)) + 0.09 + float(rng.uniform(0, 0.05)) for e in range(epochs)],
                "val_accuracies": [row["accuracy"] - 0.5 * float(np.exp(-(e + 1) / 2.4)) + float(rng.normal(0, 0.004)) for e in range(epochs)],
            } for s in range(3)],
        })  # fmt: skip
    predicted = np.exp(rng.normal(6.0, 0.6, 60)) * unit
    measured = predicted * np.exp(rng.normal(0, 0.05, 60))
    kernels = [("Conv+Clip", 6, 0.34, "table"), ("Conv(depthwise)+Clip", 5, 0.27, "table"), ("Conv+Add", 3, 0.14, "predictor"),
               ("MatMul+Add", 1, 0.05, "table"), ("GlobalAveragePool", 1, 0.03, "predictor"), ("Conv(1x1)", 4, 0.11, "table"),
               ("HardSigmoid+Mul", 2, 0.02, "roofline")]  # fmt: skip
    total = 455 * unit
    return RunRecord.model_validate({
        "title": f"Synthetic sample: mnist-5k on host within {420 if objective == 'latency' else 2.52} {'µs' if objective == 'latency' else 'M ' + objective}{text}",
        "created": "2026-11-22T10:15:00Z", "hwnas": "0.1.0" + text, "versions": {"torch" + text: "2.13.0" + text, "onnx": "1.23"},
        "device": "host" + text, "machine": "x86-64, 2 cores, made up" + text, "fidelity": fidelity,
        "toolchain": {"name": "ort" + text, "version": "1.31.0" + text, "schedule": "mlas" + text},
        "space": "mbconv-micro/28x28x1" + text, "data": "mnist-5k, 4,000 + 1,000" + text, "seed": 0, "strategy": "guided" + text,
        "objective": objective, "budget": {objective: limit, "flash": 2**17}, "confidence": 0.9,
        "settings": {"schema": 1, "device": "host", "budget": {"latency": "420 us", "note" + text: text}, "list": [1, None, True, text]},
        "trials": rows, "front": front, "finalists": finalists,
        "predictor": {"metric": objective, "networks": 60, "mape": 0.041, "covered": 0.917, "bound_ratio": 1.08,
                      "points": [[float(p), float(m)] for p, m in zip(predicted, measured)]},
        "breakdown": {"metric": objective, "end_to_end": 391 * unit,
                      "kernels": [{"op": op + text, "count": n, "total": share * total, "source": source} for op, n, share, source in kernels]},
        "toolchains": [
            {"name": "ort" + text, "version": "1.31.0" + text, "schedule": "mlas" + text, "networks": 40, "geometric_mean": 402 * unit, "ratio": 1.0},
            {"name": "tvm", "version": "0.27.0", "schedule": "hwnas-cpu-1", "networks": 40, "geometric_mean": 611 * unit, "ratio": 1.52},
        ],
        "noise": {"kendall": 0.87, "pairs": 26},
        "regret_bench": [
            {"strategy": "guided" + text, "mean_regret_points": 0.31, "runs": 10, "queries": 24},
            {"strategy": "random", "mean_regret_points": 1.42, "runs": 10, "queries": 24},
            {"strategy": "nsga2", "mean_regret_points": 0.88, "runs": 10, "queries": 24},
        ],
        "notes": ["One of three finalists missed the budget when it was measured." + text, "Every number in this sample is synthetic."],
    })  # fmt: skip


def bare_record() -> RunRecord:
    """A record of a run that found nothing and measured nothing."""
    trial = {"number": 0, "encoded": "a", "feasible": False, "estimates": {"latency": [3.0, 4.0]}}
    return RunRecord.model_validate({
        "title": "Nothing found", "created": "2026-11-22", "hwnas": "0.1.0", "device": "host", "machine": "made up", "fidelity": "hardware",
        "toolchain": {"name": "ort", "version": "1", "schedule": "s"}, "space": "mbconv", "data": "digits", "seed": 0, "strategy": "random",
        "budget": {"latency": 1e-9}, "trials": [trial],
    })  # fmt: skip


def _front(rows: list[dict[str, Any]], objective: str) -> list[int]:
    best, front = 0.0, []
    known = [r for r in rows if r["accuracy"] is not None and r["feasible"]]
    for row in sorted(known, key=lambda r: r["measured"].get(objective) or r["estimates"][objective][0]):
        if row["accuracy"] > best:
            best = row["accuracy"]
            front.append(row["number"])
    return front
