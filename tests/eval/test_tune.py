import json

import pytest

from eval.commands import table
from eval.commands.cli import UsageError
from eval.runs import grid_search
from eval.runs.store import Store


@pytest.fixture
def store(tmp_path, digits):
    return Store(tmp_path / "store", digits)


def test_the_lowest_median_over_seeds_is_best(store, fake_runs):
    record = grid_search.best("mlp_relu", "adam", "constant", 100, store)
    assert record["learning_rate"] == 1e-2
    assert record["losses"] == pytest.approx([0.09, 0.1, 0.11])
    assert record["loss"] == pytest.approx(0.1)
    assert record["curve"] == [[50, pytest.approx(0.2)], [100, pytest.approx(0.1)]]
    assert record["grid"][0] == [1e-4, pytest.approx(10)]
    assert record["grid"][-1] == [1.0, None]
    assert len(fake_runs.runs) == 9 * 3


def test_the_grid_on_one_seed_and_the_best_on_all(store, fake_runs):
    record = grid_search.best("mlp_relu", "adam", "constant", 100, store, grid_seeds=[2])
    assert record["learning_rate"] == 1e-2
    assert record["loss"] == pytest.approx(0.1)
    assert dict(record["grid"])[1e-2] == pytest.approx(0.11)
    assert len(fake_runs.runs) == 9 + 2


def test_where_all_diverge_the_record_says_so(store, fake_runs):
    record = grid_search.best("mlp_relu", "adam", "constant", 100, store, learning_rates=[1.0, 2.0])
    assert record["loss"] is None
    assert record["losses"] == [None] * 3
    assert record["curve"] == []
    assert record["test_accuracy"] is None


def test_a_diverged_seed_counts_as_infinite(store, fake_runs):
    record = grid_search.best(
        "mlp_relu", "adam", "constant", 100, store, learning_rates=[1e-1, 1.0])
    assert record["learning_rate"] == 1e-1


def test_saved_records_replace_those_of_the_same_search_only(store, fake_runs, tmp_path):
    first = grid_search.best("mlp_relu", "adam", "constant", 100, store, learning_rates=[1e-3])
    other = grid_search.best("mlp_relu", "adam", "constant", 200, store)
    better = grid_search.best("mlp_relu", "adam", "constant", 100, store)
    grid_search.save([first, other], tmp_path)
    grid_search.save([better], tmp_path)
    assert grid_search.load("mlp_relu", tmp_path) == [better, other]
    assert grid_search.load("mlp_sigmoid", tmp_path) == []
    assert "--learning_rates 0.0001,0.000316,0.001" in better["command"]


def results(*losses_at_steps, diverged=False):
    steps = losses_at_steps[-1][0]
    return {"curve": [list(point) for point in losses_at_steps], "steps": steps,
            "diverged": diverged,
            "final_training_loss": None if diverged else losses_at_steps[-1][1]}


def test_comparison_with_the_best_tuned():
    runs = [results((100, 1.0), (500, 0.2), (1000, 0.05)),
            results((100, 0.9), (500, 0.1), (1000, 0.04)),
            results((100, 2.0), (500, 0.1), (1000, 0.06))]
    assert table.compare(runs, 0.1) == {
        "loss": 0.05, "ratio": pytest.approx(0.5), "speed_up": 2.0}
    assert table.compare(runs, 0.01) == {
        "loss": 0.05, "ratio": pytest.approx(5.0), "speed_up": None}


def test_comparison_of_diverged_runs():
    fine = results((500, 0.2), (1000, 0.05))
    gone = {**results((500, 0.2), diverged=True), "steps": 1000}
    assert table.compare([fine, fine, gone], 0.1)["loss"] == 0.05
    assert table.compare([fine, gone, gone], 0.1) == {
        "loss": None, "ratio": None, "speed_up": None}


def test_the_table_reads_saved_baselines_and_runs_the_rest(store, fake_runs, tmp_path):
    adam = grid_search.best("mlp_relu", "adam", "constant", 100, store)
    grid_search.save([{**adam, "loss": 0.001}], tmp_path / "baselines")
    fake_runs.runs.clear()
    row = table.row("mlp_relu", 100, ["untrained"], store, [0, 1, 2], tmp_path / "baselines")
    assert row["best"]["optimizer"] == "adam"
    assert row["learned"]["untrained"]["ratio"] == pytest.approx(100)
    assert len(row["tuned"]) == 6
    assert {r.optimizer for r in fake_runs.runs if r.schedule == "constant"} == {
        "rmsprop", "sgd", "hrnn"}
    text = table.markdown([row])
    assert "| 100 | 0.00100 (adam constant, 0.01) | 0.100 | 100.00 | not reached |" in text
    assert "0.0500 (0.01)" in text


def test_the_table_can_leave_out_what_was_not_searched(store, fake_runs, tmp_path):
    baselines = tmp_path / "baselines"
    grid_search.save([grid_search.best("mlp_relu", "adam", "constant", 100, store),
               grid_search.best("mlp_relu", "sgd", "cosine", 50, store)], baselines)
    fake_runs.runs.clear()
    rows = [table.row("mlp_relu", steps, ["untrained"], store, [0], baselines, search=False)
            for steps in (100, 50)]
    assert {r.optimizer for r in fake_runs.runs} == {"hrnn"}
    text = table.markdown(rows)
    assert "| network | steps | adam constant | sgd cosine |" in text
    assert "| mlp_relu | 50 | not searched | " in text
    with pytest.raises(UsageError, match="no results of mlp_relu over 25 steps"):
        table.row("mlp_relu", 25, ["untrained"], store, [0], baselines, search=False)


def test_baselines_on_other_data_do_not_count(store, fake_runs, tmp_path):
    adam = grid_search.best("mlp_relu", "adam", "constant", 100, store)
    grid_search.save([{**adam, "loss": 0.001, "data": "other"}], tmp_path / "baselines")
    row = table.row("mlp_relu", 100, ["untrained"], store, [0, 1, 2], tmp_path / "baselines")
    assert (row["best"]["schedule"], row["best"]["loss"]) == ("cosine", pytest.approx(0.05))


def test_committed_baselines_are_complete_records():
    for path in grid_search.BASELINES.glob("*.json"):
        for record in json.loads(path.read_text()):
            assert record["network"] == path.stem
            assert record["curve"][-1] == [record["steps"], record["loss"]]
            assert dict(record["grid"])[record["learning_rate"]] is not None
            assert "--data_dir DIR" in record["command"]
