from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline import comparison
from pipeline.comparison import bootstrap_means, simulation_means
from pipeline.evaluation import Run, Scores, build_metrics
from pipeline.params import Evaluate
from tests.fields import describe

METRICS = build_metrics(describe())
SETTINGS = Evaluate(block_windows=5, bootstrap_samples=2000)


def scores_of(mse: dict[Run, np.ndarray]) -> Scores:
    """Scores whose every metric equals the given MSE per window."""
    values = {
        run: np.broadcast_to(series[None, :, None, None], (len(METRICS), len(series), 2, 2))
        for run, series in mse.items()
    }
    windows = len(next(iter(mse.values())))
    return Scores(METRICS, np.arange(windows), np.array([6.0, 12.0]), ("a", "b"), values)


def runs(means: dict[str, float], teacher: float, seeds: int = 3, spread: float = 0.01) -> dict[Run, np.ndarray]:
    generator = np.random.default_rng(0)
    mse = {Run("teacher"): teacher + generator.normal(0, spread, 60)}
    for method, mean in means.items():
        for seed in range(seeds):
            mse[Run("unet", method, seed)] = mean + generator.normal(0, spread, 60)
    return mse


def bootstrap_interval(difference: np.ndarray, block: int, samples: int, seed: int) -> tuple[float, float] | None:
    means = bootstrap_means(difference, block, samples, seed)
    return None if means is None else comparison.interval(means)


def simulation_interval(
    difference: np.ndarray, simulation: np.ndarray, samples: int, seed: int
) -> tuple[float, float] | None:
    means = simulation_means(difference, simulation, samples, seed)
    return None if means is None else comparison.interval(means)


def test_the_interval_of_independent_windows_is_that_of_the_central_limit_theorem() -> None:
    difference = np.random.default_rng(0).normal(3, 2, (1, 2000))
    interval = bootstrap_interval(difference, block=1, samples=4000, seed=0)
    assert interval is not None
    margin = 1.96 * difference.std(ddof=1) / np.sqrt(2000)
    np.testing.assert_allclose(interval, [difference.mean() - margin, difference.mean() + margin], atol=0.1 * margin)


def test_the_spread_of_seeds_enters_with_its_unbiased_variance() -> None:
    of_seed = np.array([1.0, 2.0, 4.0, 7.0])
    difference = np.tile(of_seed[:, None], (1, 50))
    means = [bootstrap_interval(difference, block=5, samples=20000, seed=seed) for seed in range(2)]
    deviation = of_seed.std(ddof=1) / 2  # of the mean of four
    for interval in means:
        assert interval is not None
        low, high = interval
        assert (high - low) / 2 == pytest.approx(3.182 * deviation, rel=0.15)  # of Student, three degrees


def test_blocks_keep_the_memory_of_the_weather_in_the_interval() -> None:
    generator = np.random.default_rng(1)
    noise, series = generator.normal(size=1000), np.zeros((1, 1000))
    for step in range(1, 1000):
        series[0, step] = 0.9 * series[0, step - 1] + noise[step]
    single, blocks = (bootstrap_interval(series, block, 2000, 0) for block in (1, 50))
    assert single is not None
    assert blocks is not None
    assert blocks[1] - blocks[0] > 2.5 * (single[1] - single[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        difference = generator.normal(0, 1, (5, 1)) + generator.normal(0, 1, (5, 40))
        interval = bootstrap_interval(difference, block=2, samples=400, seed=trial)
        assert interval is not None
        hits += interval[0] <= 0 <= interval[1]
    assert 0.9 <= hits / 200 <= 0.99


def test_there_is_no_interval_from_fewer_than_two_blocks() -> None:
    assert bootstrap_interval(np.ones((1, 9)), block=5, samples=10, seed=0) is None
    assert bootstrap_interval(np.ones((1, 10)), block=5, samples=10, seed=0) is not None


def test_verdicts_follow_the_interval() -> None:
    scores = scores_of(runs({"baseline": 1.0, "fitnet": 0.8, "s2kd": 1.2, "sdkd": 1.0}, teacher=0.5))
    found = {(one.method, one.against): one for one in comparison.compare_all(scores, SETTINGS, seed=0)}
    verdicts = {pair: one.verdict for pair, one in found.items()}
    assert verdicts == {
        ("teacher", "baseline"): "better",
        ("fitnet", "baseline"): "better",
        ("s2kd", "baseline"): "worse",
        ("sdkd", "baseline"): "not distinguishable",
        ("s2kd", "fitnet"): "worse",
    }
    one = found["fitnet", "baseline"]
    assert one.difference == pytest.approx(-0.2, abs=0.01)
    assert (one.seeds, one.windows, one.block_windows) == (3, 60, 5)
    assert one.low is not None
    assert one.high is not None
    assert one.low < one.difference < one.high < 0


def test_windows_are_paired_so_that_hard_weather_does_not_hide_a_gain() -> None:
    weather = np.random.default_rng(0).gamma(1, 5, 60)
    mse = {Run("teacher"): weather * 0.5}
    for seed in range(2):
        mse |= {Run("unet", "baseline", seed): weather, Run("unet", "s2kd", seed): weather - 0.01}
    found = comparison.compare_all(scores_of(mse), SETTINGS, seed=0)
    assert [one.verdict for one in found if one.method == "s2kd"] == ["better"]


def test_without_a_baseline_or_fitnet_only_what_can_be_compared_is() -> None:
    only = scores_of(runs({"s2kd": 1.0}, teacher=0.5))
    assert comparison.compare_all(only, SETTINGS, seed=0) == []
    pair = scores_of(runs({"fitnet": 1.0, "s2kd": 1.0}, teacher=0.5))
    assert [(one.method, one.against) for one in comparison.compare_all(pair, SETTINGS, seed=0)] == [("s2kd", "fitnet")]


def tree_of(scores: Scores) -> dict[str, Any]:
    return comparison.metrics_tree(scores, comparison.compare_all(scores, SETTINGS, seed=0))


def test_the_share_of_the_lead_is_a_ratio_of_mean_differences() -> None:
    mse = runs({"baseline": 1.0, "s2kd": 0.7}, teacher=0.5)
    tree = tree_of(scores_of(mse))
    means = {run: series.mean() for run, series in mse.items()}
    baseline, taught = (
        np.array([means[Run("unet", name, seed)] for seed in range(3)]) for name in ("baseline", "s2kd")
    )
    shares = (baseline - taught) / (baseline.mean() - means[Run("teacher")])
    leaf = tree["unet"]["s2kd"]
    assert leaf["share_of_lead"] == pytest.approx(shares.mean())
    assert leaf["share_of_lead_sd"] == pytest.approx(shares.std(ddof=1))
    assert leaf["mse"] == pytest.approx(taught.mean())
    assert leaf["mse_sd"] == pytest.approx(taught.std(ddof=1))
    assert "share_of_lead" not in tree["unet"]["baseline"]
    assert "rmse" not in tree["teacher"]  # variables of different units have no common mean


def test_there_is_no_share_where_the_teacher_does_not_lead() -> None:
    tree = tree_of(scores_of(runs({"baseline": 1.0, "s2kd": 0.7}, teacher=1.1)))
    assert "share_of_lead" not in tree["unet"]["s2kd"]


def test_there_is_no_share_of_a_lead_that_chance_could_give() -> None:
    scores = scores_of(runs({"baseline": 1.0, "s2kd": 0.7}, teacher=0.998))
    (teacher,) = (one for one in comparison.compare_all(scores, SETTINGS, seed=0) if one.method == "teacher")
    assert (teacher.verdict, teacher.difference < 0) == ("not distinguishable", True)
    assert "share_of_lead" not in tree_of(scores)["unet"]["s2kd"]


def test_a_single_seed_has_no_deviation() -> None:
    tree = tree_of(scores_of(runs({"baseline": 1.0, "s2kd": 0.7}, teacher=0.5, seeds=1)))
    assert set(tree["unet"]["s2kd"]) == {"mse", "mae", "ssim", "mse_openstl", "mae_openstl", "share_of_lead"}


def test_the_interval_over_simulations_is_that_of_their_means_when_windows_share_their_simulations_fate() -> None:
    generator = np.random.default_rng(3)
    of_simulation = generator.normal(2, 1, 40)
    simulation = np.repeat(np.arange(40, dtype=np.int32), 25)
    difference = (of_simulation[simulation] + generator.normal(0, 0.01, 1000))[None]
    interval = simulation_interval(difference, simulation, samples=4000, seed=0)
    blocks = bootstrap_interval(difference, block=5, samples=4000, seed=0)
    assert interval is not None
    assert blocks is not None
    margin = 1.96 * of_simulation.std(ddof=1) / np.sqrt(40)
    centre = difference.mean()
    np.testing.assert_allclose(interval, [centre - margin, centre + margin], atol=0.1 * margin)
    assert blocks[1] - blocks[0] < 0.7 * (interval[1] - interval[0])  # which would be too sure


def test_the_interval_over_simulations_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(4)
    hits = 0
    for trial in range(200):
        sizes = generator.integers(5, 15, 12)
        simulation = np.repeat(np.arange(12, dtype=np.int32), sizes)
        difference = generator.normal(0, 1, (5, 1)) + generator.normal(0, 1, 12)[simulation]
        interval = simulation_interval(difference, simulation, samples=400, seed=trial)
        assert interval is not None
        hits += interval[0] <= 0 <= interval[1]
    assert 0.9 <= hits / 200 <= 0.99
    assert simulation_interval(np.ones((2, 6)), np.zeros(6, np.int32), 10, 0) is None


def test_seen_and_unseen_environments_are_compared_apart() -> None:
    unseen = np.arange(60) >= 40
    mse = runs({"baseline": 1.0, "fitnet": 1.0, "s2kd": 1.0}, teacher=0.5)
    for run in mse:
        if run.method == "s2kd":
            mse[run] = mse[run] + np.where(unseen, 0.4, -0.4)  # better where it has learnt, worse elsewhere
    plain = scores_of(mse)
    simulation = (np.arange(60) // 5).astype(np.int32)
    scores = replace(plain, simulation=simulation, domains={"seen": ~unseen, "unseen": unseen})
    found = {(one.method, one.against, one.domain): one for one in comparison.compare_all(scores, SETTINGS, seed=0)}
    assert found["s2kd", "baseline", "seen"].verdict == "better"
    assert found["s2kd", "baseline", "unseen"].verdict == "worse"
    assert found["s2kd", "fitnet", "unseen"].difference == pytest.approx(0.4, abs=0.01)
    assert found["s2kd", "baseline", ""].verdict == "not distinguishable"
    assert [found["s2kd", "baseline", name].simulations for name in ("", "seen", "unseen")] == [12, 8, 4]
    assert [found["s2kd", "baseline", name].windows for name in ("", "seen", "unseen")] == [60, 40, 20]
    tree = comparison.metrics_tree(scores, list(found.values()))
    leaf = tree["unet"]["s2kd"]
    assert (leaf["mse_seen"], leaf["mse_unseen"]) == pytest.approx((0.6, 1.4), abs=0.01)
    assert leaf["mse"] == pytest.approx((40 * leaf["mse_seen"] + 20 * leaf["mse_unseen"]) / 60)


def test_correction_widens_the_interval_to_that_of_a_smaller_error_for_each() -> None:
    draws = np.random.default_rng(0).normal(size=200_000)
    plain, corrected = comparison.interval(draws), comparison.interval(draws, comparisons=10)
    np.testing.assert_allclose(plain, [-1.960, 1.960], atol=0.02)
    np.testing.assert_allclose(corrected, [-2.807, 2.807], atol=0.05)  # 0.25 % in each tail


def test_noise_is_called_better_no_more_often_than_the_correction_allows() -> None:
    generator = np.random.default_rng(5)
    false_alarms = uncorrected = 0
    for trial in range(20):
        mse = {Run("teacher"): np.full(60, 0.5)}
        for method in ("baseline", "fitnet", "s2kd", "sdkd", "reviewkd", "kd", "semantic", "spectral"):
            for seed in range(4):
                mse[Run("unet", method, seed)] = 1 + generator.normal(0, 0.1) + generator.normal(0, 0.1, 60)
        found = comparison.compare_all(scores_of(mse), Evaluate(block_windows=2, bootstrap_samples=100), seed=trial)
        found = [one for one in found if one.method != "teacher"]
        assert all(one.comparisons == 10 for one in found)
        false_alarms += any(one.verdict != "not distinguishable" for one in found)
        uncorrected += any(one.low > 0 or one.high < 0 for one in found if one.low is not None and one.high is not None)
    assert false_alarms <= 3
    assert false_alarms < uncorrected


def test_a_difference_within_the_corrected_interval_alone_is_no_verdict() -> None:
    generator = np.random.default_rng(0)
    mse = {Run("teacher"): np.full(60, 0.5)}
    noise = generator.normal(0, 0.1, 60)
    noise -= noise.mean()
    for method in ("baseline", "fitnet", "s2kd", "sdkd"):
        shift = noise - 2.3 * 0.1 / np.sqrt(60) if method == "sdkd" else 0
        mse |= {Run("unet", method, seed): np.ones(60) + shift for seed in range(2)}
    settings = Evaluate(block_windows=1, bootstrap_samples=4000)
    (one,) = [one for one in comparison.compare_all(scores_of(mse), settings, seed=0) if one.method == "sdkd"]
    assert one.high is not None
    assert one.corrected_low is not None
    assert one.corrected_high is not None
    assert one.high < 0 < one.corrected_high
    assert one.corrected_low < one.difference
    assert one.verdict == "not distinguishable"
    assert one.comparisons == 5


def test_enough_samples_lie_beyond_a_corrected_limit() -> None:
    for comparisons in (1, 7, 40):
        samples = comparison.samples_needed(100, comparisons)
        assert samples * 0.05 / comparisons / 2 >= comparison.BEYOND - 1e-9
    assert comparison.samples_needed(5000, 1) == 5000


def test_the_vision_teacher_and_the_controls_are_compared_where_they_are() -> None:
    methods = ("baseline", "fitnet", "semantic", "s2kd", "s2kd_vision")
    mse = runs(dict.fromkeys(methods, 1.0), teacher=0.5)
    mse[Run("vision teacher")] = mse[Run("teacher")] + 0.1
    pairs = {(one.method, one.against) for one in comparison.compare_all(scores_of(mse), SETTINGS, seed=0)}
    assert {
        ("vision teacher", "baseline"),
        ("s2kd", "s2kd_vision"),
        ("s2kd", "semantic"),
        ("teacher", "vision teacher"),
    } <= pairs
    assert ("teacher", "baseline") in pairs


def test_the_teachers_are_compared_with_each_other_once_however_many_students_there_are() -> None:
    mse = runs({"baseline": 1.0, "s2kd": 1.0}, teacher=0.5)
    mse |= {Run("resnet", run.method, run.seed): values for run, values in mse.items() if run.method}
    mse[Run("vision teacher")] = mse[Run("teacher")] + 0.1
    found = comparison.compare_all(scores_of(mse), SETTINGS, seed=0)
    (teachers,) = [one for one in found if one.against == "vision teacher"]
    assert teachers.student == ""
    assert {one.comparisons for one in found} == {len(found)} == {2 * 3 + 1}


@pytest.mark.parametrize(("loss", "verdict"), [(0.01, "worse"), (0.0, "not distinguishable"), (-0.01, "better")])
def test_8_bits_are_held_against_the_same_student_window_by_window(loss: float, verdict: str) -> None:
    mse = runs({"baseline": 1.0, "s2kd": 0.8}, teacher=0.5, spread=0.1)
    run, int8 = Run("unet", "s2kd", 1), Run("unet", "s2kd int8", 1)
    noise = np.random.default_rng(3).normal(0, 0.001, 60) if loss else np.zeros(60)
    scores, quantised = scores_of(mse), scores_of({int8: mse[run] + loss + noise})
    found = comparison.compare_precisions(run, scores, quantised, SETTINGS, seed=0)
    assert found.scores["float32"]["mse"] == pytest.approx(mse[run].mean())
    assert found.scores["int8"]["mse"] == pytest.approx((mse[run] + loss + noise).mean())
    compared = found.comparison
    assert compared.difference == pytest.approx((loss + noise).mean())
    assert (compared.verdict, compared.seeds, compared.comparisons) == (verdict, 1, 1)
    expected = bootstrap_interval((loss + noise)[None], block=5, samples=2000, seed=0)
    assert (compared.low, compared.high) == pytest.approx(expected)
