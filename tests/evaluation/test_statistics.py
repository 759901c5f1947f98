from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from lipsync.evaluation import statistics
from lipsync.evaluation.columns import Column
from lipsync.evaluation.statistics import difference, difference_all, estimate, estimate_all, paired


def _skewed(n, seed=0):
    return np.random.default_rng(seed).gamma(1.5, 2.0, n)


@pytest.mark.parametrize("n", [10, 60, 400])
def test_the_interval_equals_scipys_bca(n):
    values = _skewed(n)
    expected = bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    found = estimate(values)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.high, abs=0.05 * width)
    assert (found.mean, found.median) == pytest.approx((values.mean(), np.median(values)))
    assert found.std == pytest.approx(values.std(ddof=1))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(5)
    drawn = {trial: generator.exponential(1.0, 40) for trial in range(600)}
    held = [e.low <= 1.0 <= e.high for e in estimate_all(drawn).values()]
    assert 0.91 <= np.mean(held) <= 0.98


def test_a_skewed_sample_has_a_skewed_interval():
    found = estimate(_skewed(40))
    assert found.high - found.mean > found.mean - found.low > 0


def test_one_video_has_no_interval_and_none_no_estimate():
    found = estimate([3.5])
    assert (found.mean, found.low, found.high, found.n, found.std) == (3.5, None, None, 1, None)
    assert estimate([]) is None


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30])
def test_constant_values_have_an_interval_of_no_width(value):
    found = estimate([value] * 7)
    assert (found.low, found.high) == pytest.approx((value, value))
    assert found.std == pytest.approx(0.0, abs=1e-9 * max(1.0, abs(value)))


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.0, 0.0, 0.0, 0.0, 1.0], [5.0, 5.0 + 1e-13]])
def test_few_and_tied_values_have_an_interval_around_the_mean(values):
    found = estimate(values)
    assert min(values) - 1e-9 <= found.low <= found.mean <= found.high <= max(values) + 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="finite"):
        estimate([1.0, value])


def test_company_does_not_change_an_estimate():
    vectors = {index: _skewed(n, index) for index, n in enumerate([5, 30, 30, 7, 30])}
    together = estimate_all(vectors)
    assert list(together) != []
    for key, vector in vectors.items():
        alone = estimate(vector)
        assert (alone.low, alone.high) == pytest.approx((together[key].low, together[key].high), rel=1e-12)


def test_the_same_values_give_the_same_numbers():
    assert estimate(_skewed(50)) == estimate(_skewed(50))


def test_a_difference_pairs_by_name():
    first = {"a": 1.0, "b": 2.0, "c": 3.0, "only first": 99.0}
    second = {"c": 2.0, "b": 1.5, "a": 1.5, "only second": -99.0}
    found = difference(first, second, "lower")
    assert found.n == 3
    assert found.mean == pytest.approx((0.5 - 0.5 - 1.0) / 3)
    assert found.better_share == pytest.approx(2 / 3)
    assert difference(first, second, "higher").better_share == pytest.approx(1 / 3)
    assert difference(first, second).better_share is None
    assert difference(first, {"x": 1.0}) is None
    assert set(difference_all({"k": (first, second, ""), "none": ({}, second, "")})) == {"k"}


def test_pairing_shows_what_the_spread_of_the_videos_hides():
    generator = np.random.default_rng(2)
    hard = generator.normal(0, 3, 60)
    first = {str(i): float(v) for i, v in enumerate(hard)}
    second = {str(i): float(v + 0.3 + generator.normal(0, 0.2)) for i, v in enumerate(hard)}
    one, two = estimate(list(first.values())), estimate(list(second.values()))
    assert one.high > two.low
    found = difference(first, second, "higher")
    assert found.low > 0
    assert found.verdict("higher") == "better"
    assert found.verdict("lower") == "worse"
    assert found.verdict("") == "higher"


def test_no_verdict_without_evidence():
    first = {"a": 0.0, "b": 0.0, "c": 0.0}
    assert (
        difference(first, {"a": 1.0, "b": -1.0, "c": 0.2}, "higher").verdict("higher")
        == "no difference shown"
    )
    assert difference(first, {"a": 5.0}, "higher").verdict("higher") == "no difference shown"
    assert difference(first, first, "higher").verdict("higher") == "no difference shown"


def test_columns_of_two_systems():
    columns = [Column("d", "D", "sync", "lower"), Column("gone", "gone", "sync", "lower")]
    found = paired({"d": {"a": 1.0, "b": 1.0}, "x": {"a": 0.0}}, {"d": {"a": 0.0, "b": 0.5}}, columns)
    assert set(found) == {"d"}
    assert found["d"].better_share == 1.0


def test_method_and_seed_are_stated():
    stated = statistics.describe()
    assert stated["resamples"] == 9999
    assert stated["confidence"] == 0.95
    assert isinstance(stated["seed"], int)
    assert "BCa" in stated["method"]
