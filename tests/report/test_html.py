"""The page: complete, offline, hostile text as text, honest about fidelity, and drawn by a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from headless_browser import load
from synthetic_record import HOSTILE, bare_record, full_record

from hwnas.core.measurement import Fidelity
from hwnas.errors import HwnasError
from hwnas.report.html import budget_lines, report_html, script_json, sentence, write_report

MAX_BYTES = 8_000_000
FETCHING = ("src", "href", "srcset", "action", "poster", "data", "formaction", "background", "ping", "manifest")


class _Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data


@pytest.mark.parametrize("record", [full_record(), bare_record()], ids=["full", "bare"])
def test_page_is_one_offline_file(record: object, tmp_path: Path) -> None:
    path = write_report(record, tmp_path / "report.html")  # type: ignore[arg-type]
    assert path.stat().st_size < MAX_BYTES
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    page = _Elements(path.read_text(encoding="utf-8"))
    for tag, attributes in page.found:
        for name in FETCHING:
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), tag
    policy = next(a["content"] for t, a in page.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "script-src 'unsafe" not in policy
    css = re.search(r"<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert css is not None and "url(" not in css[1] and "@import" not in css[1]


def test_hostile_text_stays_text() -> None:
    plain, hostile = _Elements(report_html(full_record())), _Elements(report_html(full_record(text=HOSTILE)))
    shape = [tag for tag, _ in plain.found]
    assert [tag for tag, _ in hostile.found] == shape  # not one element more than without it
    seen = HOSTILE.replace("\u202e", "\ufffd")
    assert hostile.text.count(seen) > 20
    data = re.search(r'id="drawings">(.*?)</script>', report_html(full_record(text=HOSTILE)), re.DOTALL)
    assert data is not None and "onerror" in data[1] and not re.search("[<>&]", data[1])


def test_script_json_cannot_leave_its_element() -> None:
    text = script_json({"a": "</script><!--<script>&\u2028"})
    assert not re.search("[<>&\u2028]", text)
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


def test_sentence_says_what_was_found() -> None:
    said = sentence(full_record()).replace("\u00a0", " ")
    assert said.startswith("A network with 95.0 % test accuracy (n = 1,000, 95 % interval 93.5 % to 96.2 %)")
    assert "measured latency" in said and "over 5 readings" in said and "meets the budget of latency ≤ 420 µs" in said
    assert "on host (x86-64, 2 cores, made up; fidelity: hardware), 2026-11-22." in said


def test_sentence_says_that_nothing_was_found_and_by_how_much() -> None:
    said = sentence(bare_record()).replace("\u00a0", " ")
    assert said.startswith("No network was found within latency ≤ 1 ns in 1 trials")
    assert "trial 0, is over in latency by" in said


def test_finalists_without_a_winner_are_not_called_one() -> None:
    record = full_record()
    record = record.model_copy(
        update={"finalists": tuple(f.model_copy(update={"winner": False}) for f in record.finalists)}
    )
    assert "3 finalists were measured and none of them was chosen" in sentence(record)
    page = _Elements(report_html(record))
    assert "The first finalist" in page.text and "The winner, limit" not in page.text


def test_settings_that_no_file_could_hold_still_render() -> None:
    record = full_record().model_copy(update={"settings": {"a": "\ud800\x00"}})
    report_html(record).encode("utf-8")


def test_winner_that_misses_is_said_to_miss() -> None:
    record = full_record()
    over = [f.model_copy(update={"winner": not f.meets_budget}) for f in record.finalists]
    record = record.model_copy(update={"finalists": tuple(over)})
    assert "misses the budget" in sentence(record)
    fits = {line.metric: line.fits for line in budget_lines(record, record.winner)}  # type: ignore[arg-type]
    assert fits["latency"] is False and fits["flash"] is True
    assert "✗ over" in report_html(record)


def test_limit_that_nobody_measured_is_not_known() -> None:
    record = full_record()
    record = record.model_copy(update={"budget": {**record.budget, "energy": 0.04}})
    assert record.winner is not None
    line = next(line for line in budget_lines(record, record.winner) if line.metric == "energy")
    assert line.measured is None and line.fits is None
    assert "? not known" in report_html(record)


@pytest.mark.parametrize(
    ("fidelity", "metric"),
    [(Fidelity.MODEL, "latency"), (Fidelity.CYCLE_SIM, "cycles"), (Fidelity.INSTRUCTION_SIM, "instructions")],
)
def test_fidelity_other_than_hardware_is_said_with_every_number(fidelity: Fidelity, metric: str) -> None:
    record = full_record(fidelity=fidelity, objective=metric)  # type: ignore[arg-type]
    page = _Elements(report_html(record))
    assert "Not measured on hardware" in page.text
    text = re.sub(r"Synthetic sample.*|stands here as .*|budget:\n.*", "", page.text)
    text = text.replace(record.title, "")
    bare = re.findall(rf"\b{metric}\b(?! \({fidelity}\)).{{0,30}}", text)
    assert bare == []


@pytest.mark.parametrize(
    ("fidelity", "metric", "word"),
    [(Fidelity.MODEL, "latency", "modelled"), (Fidelity.CYCLE_SIM, "cycles", "simulated")],
)
def test_only_hardware_is_said_to_have_measured(fidelity: Fidelity, metric: str, word: str) -> None:
    text = report_html(full_record(fidelity=fidelity, objective=metric))  # type: ignore[arg-type]
    for phrase in ("Predicted against {} ", "winner, {}", "finalist, {}", '<th scope="col" class="num">{}</th>'):
        assert phrase.format(word) in text and phrase.format("measured") not in text
    assert f'"text":"{word} {metric}' in text and '"text":"measured' not in text
    hardware = report_html(full_record())
    assert "Predicted against measured latency" in hardware and "winner, measured" in hardware


def test_full_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((HwnasError, OSError)):
        write_report(bare_record(), tmp_path / "file" / "report.html")


def test_browser_draws_every_plot_without_a_complaint(tmp_path: Path) -> None:
    path = write_report(full_record(text=HOSTILE), tmp_path / "report.html")
    page = load(path, tmp_path / "profile")
    assert page.console == []
    assert 'data-drawn="5"' in page.dom
    for name in ("front", "predicted", "loss", "accuracy", "breakdown"):
        plot = page.rendered.partition(f'id="plot-{name}"')[2].partition("</figure>")[0]
        assert 'class="main-svg"' in plot and ('class="point' in plot or "js-line" in plot), name
    assert "<img" not in page.rendered and "window.broken=1</script>" not in page.dom


def test_browser_says_nothing_on_a_bare_page(tmp_path: Path) -> None:
    page = load(write_report(bare_record(), tmp_path / "report.html"), tmp_path / "profile")
    assert page.console == [] and "Nothing found" in page.dom


def test_browser_refuses_foreign_script_and_request(tmp_path: Path) -> None:
    path = write_report(full_record(), tmp_path / "report.html")
    foreign = '<script>document.title = "taken over"</script><img src="https://example.invalid/x.png"></body>'
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", foreign), encoding="utf-8")
    page = load(path, tmp_path / "profile")
    assert "<title>taken over" not in page.dom
    assert sum("Content Security Policy" in line for line in page.console) >= 2  # so the console is really read


def test_browser_changes_axis_and_shows_hostile_hover_as_text(tmp_path: Path) -> None:
    path = write_report(full_record(text=HOSTILE), tmp_path / "report.html")
    act = """<script>
      const axis = document.getElementById("front-axis"), front = document.getElementById("plot-front");
      axis.value = "flash"; axis.dispatchEvent(new Event("change"));
      document.title = front.layout.xaxis.title.text + (window.broken ? " broken" : "");
      Plotly.Fx.hover(front, [{curveNumber: 0, pointNumber: 0}]);
    </script></body>"""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
    path.write_text(text.replace("</body>", act), encoding="utf-8")
    page = load(path, tmp_path / "profile")
    assert page.console == []
    assert "<title>flash in KiB</title>" in page.dom
    hover = page.rendered.partition('class="hoverlayer"')[2][:20_000]
    assert "window.broken" in hover and "<img" not in page.rendered and "<a xlink" not in hover
