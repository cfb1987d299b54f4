"""The accuracy predictor: ranks unseen networks of a public benchmark from few, and knows how unsure it is."""

from __future__ import annotations

import json
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from hwnas.accuracy.graph_features import GraphFeatures
from hwnas.accuracy.predictor import AccuracyPredictor
from hwnas.errors import DataError
from hwnas.spaces.cell import CellSpace


@pytest.fixture(scope="module")
def benchmark(shared_data):
    """Features (13 published proxies and the cell's graph) and CIFAR-10 accuracies of 9,445 networks."""
    proxies = pd.read_csv(shared_data / "nb201_zero_cost_proxies_cifar10.csv").set_index("net").drop(columns="net_str")
    table = proxies.join(pd.read_csv(shared_data / "nb201_val_accuracy_cifar10.csv").set_index("net"), how="inner")
    space = CellSpace()
    graph = GraphFeatures(space)([space.parse(net) for net in table.index])
    return np.hstack([table.drop(columns="val_accs").to_numpy(), graph]), table.val_accs.to_numpy() / 100


@pytest.mark.parametrize(("n", "bound"), [(16, 0.60), (32, 0.70), (64, 0.745), (128, 0.79)])
def test_kendall_on_held_out_networks(benchmark, n, bound):
    features, accuracies = benchmark
    taus, within = [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(accuracies))
        train, held = order[:n], order[-2500:]
        predictor = AccuracyPredictor(seed).fit(features[train], accuracies[train])
        mean, std = predictor.predict(features[held])
        taus.append(kendalltau(mean, accuracies[held]).statistic)
        within.append(np.mean(np.abs(mean - accuracies[held]) < 1.64 * std))
    assert np.mean(taus) > bound
    assert 0.85 < np.mean(within) <= 1, "90 % intervals hold what they should"


def toy(n=60, f=12, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, f))
    return features, np.clip(0.8 + 0.1 * features[:, 0] - 0.05 * features[:, 1], 0, 1)


def test_saved_and_loaded_it_predicts_the_same(tmp_path):
    features, accuracies = toy()
    predictor = AccuracyPredictor(3).fit(features, accuracies)
    predictor.save(tmp_path / "p.json")
    again = AccuracyPredictor.load(tmp_path / "p.json")
    assert all((a == b).all() for a, b in zip(predictor.predict(features), again.predict(features)))
    assert again.seed == 3
    json.loads((tmp_path / "p.json").read_text())


def test_same_seed_same_predictions():
    features, accuracies = toy()
    a, b, c = (AccuracyPredictor(seed).fit(features, accuracies).predict(features)[0] for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_failed_trainings_are_left_out():
    features, accuracies = toy()
    holed = np.where(np.arange(60) % 5 == 0, np.nan, accuracies)
    kept = ~np.isnan(holed)
    a, b = AccuracyPredictor().fit(features, holed), AccuracyPredictor().fit(features[kept], accuracies[kept])
    assert (a.predict(features)[0] == b.predict(features)[0]).all()


def test_few_and_equal_rows():
    features, accuracies = toy(2)
    mean, std = AccuracyPredictor().fit(features, accuracies).predict(features)
    assert np.isfinite(mean).all() and (std >= 0).all()
    mean, _ = AccuracyPredictor().fit(*[toy(20)[0], np.full(20, 0.7)]).predict(toy(5)[0])
    assert mean == pytest.approx(0.7, abs=1e-3)
    mean, _ = AccuracyPredictor().fit(toy(20)[0], np.arange(20) % 2).predict(toy(50, seed=1)[0])
    assert ((mean >= 0) & (mean <= 1)).all()


def test_missing_features_are_taken_as_missing():
    features, accuracies = toy()
    features[::3, 2] = np.nan
    assert np.isfinite(AccuracyPredictor().fit(features, accuracies).predict(features)[0]).all()


def test_what_cannot_be_learned_from_is_refused():
    features, accuracies = toy()
    for x, y, message in [
        (features, accuracies[:-1], "n x f"),
        (features[0], accuracies, "n x f"),
        (features[:1], accuracies[:1], "1 trained candidates are too few"),
        (features, np.full(60, np.nan), "0 trained candidates"),
        (features, accuracies * 100, "fractions"),
        (np.where(features > 2, np.inf, features), accuracies, "infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            AccuracyPredictor().fit(x, y)
    with pytest.raises(ValueError, match="not been fitted"):
        AccuracyPredictor().predict(features)
    with pytest.raises(ValueError, match="n x 12, not"):
        AccuracyPredictor().fit(features, accuracies).predict(features[:, :5])


def test_files_that_are_no_predictor_are_refused(tmp_path):
    path = tmp_path / "p.json"
    with pytest.raises(ValueError, match="not been fitted"):
        AccuracyPredictor().save(path)
    AccuracyPredictor().fit(*toy()).save(path)
    good = json.loads(path.read_text())
    bad = ["", "[]", "{}", json.dumps({**good, "schema": 9}), json.dumps({**good, "members": []}),
           json.dumps({**good, "members": [{"learner": 1}]})]  # fmt: skip
    for text in bad:
        path.write_text(text)
        with pytest.raises(DataError, match=r"p\.json: is not an accuracy predictor"):
            AccuracyPredictor.load(path)
    with pytest.raises(DataError, match="is not an accuracy predictor"):
        AccuracyPredictor.load(tmp_path / "none.json")


@pytest.mark.timing
def test_fitting_and_predicting_are_quick(benchmark):
    features, accuracies = benchmark
    started = perf_counter()
    predictor = AccuracyPredictor().fit(features[:150], accuracies[:150])
    fitted = perf_counter()
    predictor.predict(np.tile(features, (3, 1))[:20_000])
    assert fitted - started < 1 and perf_counter() - fitted < 1
