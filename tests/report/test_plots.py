"""The plots: valid figures for plotly, hostile text only as data, and a static SVG that is well-formed XML."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_record import HOSTILE, bare_record, full_record

from hwnas.core.measurement import Fidelity
from hwnas.report import figures
from hwnas.report.plots import front_svg, log_ticks, nice_ticks
from hwnas.report.record import RunRecord

RECORDS = {
    "full": full_record(),
    "instructions": full_record(fidelity=Fidelity.INSTRUCTION_SIM, objective="instructions"),
    "hostile": full_record(text=HOSTILE),
}


def _figures(record: RunRecord) -> list[dict[str, Any]]:
    return [
        *(figures.front_figure(record, m) for m in figures.front_metrics(record)), *figures.curve_figures(record),
        figures.predicted_figure(record), figures.breakdown_figure(record),
    ]  # fmt: skip


def _texts(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for name, item in value.items() for pair in _texts(item, name)]
    if isinstance(value, list):
        return [pair for item in value for pair in _texts(item, key)]
    return [(key, value)] if isinstance(value, str) else []


def _coloured(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _coloured(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_coloured(v) for v in value]
    return "#123456" if isinstance(value, str) and re.fullmatch(r"@[a-z0-9]+", value) else value


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_plotly_accepts_every_figure(record: RunRecord) -> None:
    import plotly.graph_objects as go

    drawn = _figures(record)
    assert len(drawn) >= 6 and all(figure["data"] for figure in drawn)
    for figure in drawn:
        go.Figure(_coloured(figure))  # raises for an attribute or value that plotly does not know


def test_every_colour_is_defined_in_the_style_sheet() -> None:
    css = (Path(figures.__file__).parent / "templates" / "report.css").read_text()
    used = {text[1:] for f in _figures(RECORDS["full"]) for key, text in _texts(f) if key.endswith("color")}
    assert used and all(css.count(f"--{name}:") == 2 for name in used)  # in light and in dark


def test_hostile_text_is_data_and_escaped() -> None:
    for figure in _figures(RECORDS["hostile"]):
        for key, text in _texts(figure):
            assert not re.search(r"<(?!br>|/?b>|extra>|/extra>)", text), (key, text)
            if key == "hovertemplate" or key == "name":
                assert "onerror" not in text


def test_infeasible_differs_by_shape_and_limit_is_drawn() -> None:
    figure = figures.front_figure(RECORDS["full"], "latency")
    symbols = {t["name"]: t["marker"]["symbol"] for t in figure["data"]}
    assert (
        len(
            {
                symbols["over budget"],
                symbols["within budget"],
                symbols["finalist, measured"],
                symbols["winner, measured"],
            }
        )
        == 4
    )
    assert figure["layout"]["shapes"][0]["x0"] == pytest.approx(420)
    winner = next(t for t in figure["data"] if t["name"] == "winner, measured")
    readings = RECORDS["full"].winner.readings["latency"]  # type: ignore[union-attr]
    assert winner["x"][0] + winner["error_x"]["array"][0] == pytest.approx(1e6 * max(readings))
    assert winner["x"][0] - winner["error_x"]["arrayminus"][0] == pytest.approx(1e6 * min(readings))


def test_fidelity_is_in_axis_titles() -> None:
    for figure in _figures(full_record(fidelity=Fidelity.MODEL)):
        for axis in ("xaxis", "yaxis"):
            title = figure["layout"][axis]["title"]["text"]
            assert "latency" not in title or "latency (model)" in title


def test_limit_on_a_logarithmic_axis_is_labelled_where_it_is() -> None:
    record = RECORDS["full"]
    far = record.trials[0].model_copy(update={"number": 999, "estimates": {"latency": (1.0, 1.0)}, "measured": {}})
    figure = figures.front_figure(record.model_copy(update={"trials": (*record.trials, far)}), "latency")
    layout = figure["layout"]
    assert layout["xaxis"]["type"] == "log"
    assert layout["annotations"][0]["x"] == pytest.approx(math.log10(layout["shapes"][0]["x0"]))


def test_nothing_to_draw_is_an_empty_figure() -> None:
    record = bare_record()
    assert figures.front_metrics(record) == []
    assert figures.predicted_figure(record) == figures.breakdown_figure(record) == {}
    assert figures.curve_figures(record) == ({}, {})


@pytest.mark.parametrize("record", [*RECORDS.values(), bare_record()], ids=[*RECORDS, "bare"])
def test_svg_is_well_formed_and_inert(record: RunRecord) -> None:
    root = ElementTree.fromstring(front_svg(record))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "title", "style", "text", "path", "circle", "g"}
    assert not any(a.startswith("on") or "href" in a for e in root.iter() for a in e.attrib)
    for element in root.iter():
        for number in re.findall(r"-?\d+\.\d+", element.get("cx", "") + " " + element.get("cy", "")):
            assert 0 <= float(number) <= 760
    assert len(front_svg(record)) < 40_000


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_inside_and_few(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert len(ticks) <= 14 and all(low - 1e-6 * width - 1e-9 <= t <= low + width * 1.001 + 1e-9 for t in ticks)


def test_ticks_are_round() -> None:
    assert nice_ticks(0.1, 0.95) == [0.2, 0.4, 0.6, 0.8]
    assert log_ticks(0.3, 25) == [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
