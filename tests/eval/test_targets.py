"""Time to a target, and profiles of it."""

import math

import numpy as np
import pytest

from eval.runs import targets
from eval.runs.targets import Curves

INF = math.inf


def curves(steps, *losses):
    return Curves(np.array(steps), np.array(losses, float))


def test_the_target_is_the_best_baselines_loss_after_three_quarters():
    found = {
        "late": curves([25, 50, 75, 100], [9, 8, 7, 1]),
        # The median of the seeds, of which one diverged.
        "early": curves([25, 50, 75, 100], [9, 8, 5, 4], [9, 8, 6, 4], [9, INF, INF, INF]),
    }
    assert targets.target(found) == (6, "early")
    assert targets.target({"coarse": curves([50, 100], [3, 2])}) == (3, "coarse")
    # No point is so early.
    assert targets.target({"one": curves([100], [2])}) == (2, "one")


def test_steps_to_a_target_are_on_the_line_between_points():
    found = curves([10, 20, 40, 80], [8, 4, 1, 0.5], [8, 4, 4, 4], [1, 1, 1, 1],
                   [INF, INF, 1, 1])
    # From 4 to 1 over one doubling of the steps, 2 is half way; before the first point, and
    # after one that is not finite, there is no line.
    np.testing.assert_allclose(targets.steps_to(found, 2), [20 * math.sqrt(2), INF, 10, 40])
    assert np.all(np.isinf(targets.steps_to(found, INF)))
    np.testing.assert_allclose(targets.steps_to(found, 4)[:2], 20)


def test_profiles_and_scores():
    times = np.array([[10.0, 20, INF, INF], [20, 20, 30, INF]])
    np.testing.assert_allclose(
        targets.profile(times, np.array([1, 1.9, 2])), [[0.5] * 3, [0.5, 0.5, 0.75]])
    # The mean height from 1 to 4: a ratio of 2 leaves two thirds of it.
    np.testing.assert_allclose(targets.score(times), [0.5, (2 / 3 + 1 + 1) / 4])
    within = np.linspace(1, 4, 30_001)
    np.testing.assert_allclose(
        targets.profile(times, within).mean(axis=1), targets.score(times), atol=1e-3)


def test_the_interval_is_that_of_seeds_and_tasks():
    same = [np.array([[10.0] * 3, [20.0] * 3])]
    np.testing.assert_allclose(targets.score_interval(same, 20), [[1, 1], [2 / 3, 2 / 3]])
    # One task is reached by the first, the other by the second: either may be drawn twice. Tasks
    # have other numbers of seeds.
    split = [np.array([[10.0] * 3, [INF] * 3]), np.array([[INF] * 5, [10.0] * 5])]
    np.testing.assert_allclose(targets.score_interval(split, 200), [[0, 1], [0, 1]])
    # One seed of three is slower than the other optimizer: the median of three draws seldom is.
    some = [np.array([[1.0, 1.0, 9.0], [3.0, 3.0, 3.0]])]
    low, high = targets.score_interval(some, 400)[0]
    assert low == pytest.approx(1 / 3) and high == 1
    # The same seeds are drawn for all.
    alike = [np.array([[1.0, 5.0, 9.0]] * 2)]
    np.testing.assert_allclose(targets.score_interval(alike, 200), 1)
    assert targets.median_times(np.array([1, INF])) == INF
    assert targets.median_times(np.array([3, INF, 1])) == 3


def test_results_are_read_with_what_diverged_and_what_was_not_timed():
    runs = [{"curve": [[50, 2.0], [100, 1.0]], "test_accuracy": 0.9, "step_seconds": 0.5},
            {"curve": [[50, 3.0]], "test_accuracy": None}]
    found = targets.of_runs(runs)
    np.testing.assert_array_equal(found.losses, [[2, 1], [3, INF]])
    np.testing.assert_array_equal(found.accuracies, [0.9, math.nan])
    assert found.step_seconds == 0.5
    assert targets.of_runs(runs[1:]).step_seconds is None
    nothing = targets.of_runs([{"curve": [], "steps": 7, "test_accuracy": None}])
    assert nothing.steps.tolist() == [7] and nothing.losses.tolist() == [[INF]]
    suite = targets.of_suite_run({"steps_of_points": [5, 10], "curves": [[1.0, None], [0.5, 0.1]],
                                  "step_seconds": 2.0})
    np.testing.assert_array_equal(suite.losses, [[1, INF], [0.5, 0.1]])
    assert suite.step_seconds == pytest.approx(2) and suite.accuracies is None
