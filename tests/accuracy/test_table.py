"""The accuracy table: rows survive, merge by union, and are never believed against their id."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from hwnas.accuracy import table as tables
from hwnas.accuracy.table import AccuracyTable, TrainingRow, merge
from hwnas.accuracy.training import Training
from hwnas.core.measurement import Failure
from hwnas.errors import DataError, HwnasError

fractions = st.floats(0, 1)
trainings = st.builds(
    lambda losses, value, seconds, complete: Training(
        tuple(losses), tuple(value for _ in losses), value, value if complete else None, seconds, complete
    ),
    st.lists(st.floats(0, 100), min_size=1, max_size=3), fractions, st.floats(0, 1e6), st.booleans(),
)  # fmt: skip
failures = st.builds(Failure, st.sampled_from(["build", "run"]), st.just("RuntimeError"), st.text())
rows = st.builds(
    TrainingRow,
    candidate=st.sampled_from("abc"), space=st.just("s"), text=st.text(), dataset=st.sampled_from("de"),
    plan=st.just("p"), seed=st.integers(0, 2), result=st.one_of(trainings, failures),
)  # fmt: skip


def row(candidate="a", seed=0, epochs=3, accuracy=0.5, complete=True, failure=None, plan="p") -> TrainingRow:
    done = Training((1.0,) * epochs, (accuracy,) * epochs, accuracy, accuracy if complete else None, 2.0, complete)
    return TrainingRow(candidate, "s", candidate, "d", plan, seed, failure or done)


FAILURE = Failure("run", "TrainingFailed", "the loss is nan")


@given(rows)
def test_a_row_is_the_same_after_its_line(value):
    again = TrainingRow.from_json(json.loads(json.dumps(value.as_json())))
    assert again == value and again.id == value.id and again.key == value.key


@settings(max_examples=30)
@given(st.lists(rows, max_size=8), st.lists(rows, max_size=8), st.lists(rows, max_size=8))
def test_merging_is_set_union(a, b, c):
    one, two, three = AccuracyTable(a), AccuracyTable(b), AccuracyTable(c)
    ids = [r.id for r in merge(one, two)]
    assert ids == [r.id for r in merge(two, one)] == sorted({r.id for r in (*a, *b)})
    assert [r.id for r in merge(merge(one, two), three)] == [r.id for r in merge(one, merge(two, three))]
    assert [r.id for r in merge(merge(one, two), two)] == ids
    for key in {r.key for r in (*a, *b)}:
        assert merge(one, two).find(key) == merge(two, one).find(key)


def test_what_counts_does_not_depend_on_the_order_of_rows():
    cases = [
        ([row(epochs=1, complete=False), row(epochs=2, complete=False), row(epochs=3)], 2),
        ([row(epochs=1, complete=False), row(failure=FAILURE)], 1),
        ([row(failure=FAILURE), row(epochs=3), row(epochs=2, complete=False)], 1),
    ]
    for some, counts in cases:
        for order in permutations(some):
            assert AccuracyTable(order).find(some[0].key) == some[counts]
    assert AccuracyTable().find("x") is None


def test_rows_are_on_disk_at_once_and_once(tmp_path):
    path = tmp_path / "deep" / "accuracy.jsonl"
    with AccuracyTable.open(path) as table:
        assert table.append(row()) and not table.append(row()) and table.append(row(failure=FAILURE, seed=1))
        assert len(path.read_text().splitlines()) == 3
        assert [r.id for r in AccuracyTable.read(path)] == [r.id for r in table]
        with pytest.raises(HwnasError, match="in use by another process"):
            AccuracyTable.open(path)
    with AccuracyTable.open(path) as again:
        assert len(again) == 2 and again.torn == b""
        assert np.isnan(again.find(row(seed=1).key).accuracy) and again.find(row().key).accuracy == 0.5


def test_a_torn_tail_is_set_aside_and_reported(tmp_path):
    path = tmp_path / "accuracy.jsonl"
    with AccuracyTable.open(path) as table:
        table.append(row())
        table.append(row(seed=1))
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(whole)):
        path.write_bytes(whole[:cut])
        read = AccuracyTable.read(path)
        assert len(read) == 1 and read.torn == whole[last:cut]
    with AccuracyTable.open(path) as table:
        assert len(table) == 1 and table.torn
        table.append(row(seed=1))
    assert path.read_bytes() == whole


def test_lines_that_lie_are_refused(tmp_path):
    path = tmp_path / "accuracy.jsonl"
    AccuracyTable([row(), row(seed=1)]).write(path)
    header, first, second = path.read_text().splitlines()
    cases = [
        (f"{header}\n{first.replace('0.5', '0.9')}\n{second}\n", "line 2 is not a valid training: its id is"),
        (f"{header}\n{first}\n{second.replace('training', 'trained')}\n", "line 3 is not a valid training"),
        (f'{header}\n{first[:-1]},"more":1}}\n{second}\n', "line 2"),
        (f"{header}\nnot json\n{second}\n", "line 2"),
        (f"{first}\n{second}\n", "line 1 is not the header"),
        (f"{header.replace('1', '2')}\n", "schema 1"),
    ]
    for text, message in cases:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            AccuracyTable.read(path)
        with pytest.raises(DataError, match=message):
            AccuracyTable.open(path)
        assert path.read_text() == text


def test_agreement_of_two_seeds():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 1, 40)
    second = first + rng.normal(0, 0.05, 40)
    some = [row(f"c{i}", seed=s, accuracy=a[i]) for i in range(40) for s, a in ((4, second), (1, first))]
    some += [row("only one seed"), row("c0", seed=0, epochs=1, complete=False), row("c1", seed=0, failure=FAILURE)]
    some += [row("c2", seed=0, plan="another")]
    found = tables.test_retest(AccuracyTable(some), "d", "p")
    assert found.n == 40 and found.tau == pytest.approx(kendalltau(first, second).statistic)
    assert found.low < found.tau < found.high and 0.05 < found.high - found.low < 0.5
    assert tables.test_retest(AccuracyTable(some), "d", "p") == found
    assert tables.test_retest(AccuracyTable(some), "other data", "p") is None
    alike = [row(f"c{i}", seed=s, accuracy=0.5) for i in range(9) for s in (0, 1)]
    assert tables.test_retest(AccuracyTable(alike), "d", "p") is None
