"""The README and the cards: every number in their results is that of a result file."""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (\w+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
                 re.MULTILINE)
PAGES = ("README.md", "hrnn_opt/pretrained/rule.md")


def results(network: str, steps: int, optimizer: str = "hrnn-rule") -> list[dict]:
    """Those of an optimizer at its own rate, one for each seed."""
    text = json.loads((ROOT / f"eval/results/{network}.json").read_text())
    return [
        result for name, result in text.items()
        if name.startswith(f"{network}-{optimizer}-constant-{steps}-")]


def best_tuned(network: str, steps: int) -> dict:
    """The baseline with the lowest loss after so many steps."""
    found = json.loads((ROOT / f"eval/baselines/{network}.json").read_text())
    return min((row for row in found if row["steps"] == steps), key=lambda row: row["loss"])


@pytest.mark.parametrize("page", PAGES)
def test_results_are_those_of_their_files(page):
    rows = ROW.findall((ROOT / page).read_text())
    assert len(rows) >= 4
    for network, steps, loss, accuracy, tuned, tuned_accuracy in rows:
        steps = int(steps.replace(",", ""))
        runs, best = results(network, steps), best_tuned(network, steps)
        assert len(runs) == 3
        assert_medians(
            (network, steps), loss=(loss, losses(runs)),
            accuracy=(accuracy, [run["test_accuracy"] for run in runs]),
            tuned=(tuned, [best["loss"]]), tuned_accuracy=(tuned_accuracy, [best["test_accuracy"]]))


def assert_ratios(card: str, found: dict, columns: list[dict]) -> None:
    """A row for each task and one for their mean: the mean of each column, and its error."""
    rows = re.findall(r"^\| [^|]* \|" + r" ([-+][\d.]+) \(([\d.]+)\) \|" * len(columns) + "$", card,
                      re.MULTILINE)
    assert len(rows) == len(found["tasks"]) + 1
    for i, row in enumerate(rows):
        for shown, error, column in zip(row[::2], row[1::2], columns):
            mean, exact = column["mean"], column["standard_error"]
            if i < len(found["tasks"]):
                seeds = column["differences"][i]
                mean, exact = statistics.mean(seeds), statistics.stdev(seeds) / len(seeds) ** 0.5
            assert float(shown) == pytest.approx(mean, abs=6e-4)
            assert float(error) == pytest.approx(exact, abs=6e-4)


def assert_medians(where: tuple, **shown: tuple[str, list[float]]) -> None:
    """What is shown, by its name, is the median of its values."""
    for name, (number, values) in shown.items():
        assert float(number) == pytest.approx(statistics.median(values), rel=0.006), (*where, name)


def losses(runs: list[dict]) -> list[float]:
    return [run["final_training_loss"] for run in runs]


def test_the_card_of_celo_small_has_the_numbers_of_its_files():
    card = (ROOT / "hrnn_opt/pretrained/celo_small.md").read_text()
    found = json.loads((ROOT / "lab/checkpoints/celo_small.json").read_text())
    assert_ratios(card, found, list(found["weights"]["celo_small"].values()))
    for network, loss, accuracy, adam, tuned, rule in re.findall(
            r"^\| (mlp_\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", card,
            re.MULTILINE):
        ours = results(network, 1000, "hrnn-celo_small")
        assert_medians(
            (network,), loss=(loss, losses(ours)),
            accuracy=(accuracy, [run["test_accuracy"] for run in ours]),
            adam=(adam, losses(results(network, 1000, "adam")[:1])),
            tuned=(tuned, [best_tuned(network, 1000)["loss"]]),
            rule=(rule, losses(results(network, 1000))))


def test_the_card_of_learned_has_the_numbers_of_its_files():
    card = (ROOT / "hrnn_opt/pretrained/learned.md").read_text()
    found = json.loads((ROOT / "lab/checkpoints/ten-other-draws.json").read_text())
    ours = found["weights"]["lab/checkpoints/units-4-reads-1000.safetensors"]
    assert_ratios(card, found, [
        ours[title] for title in ("1,000 steps", "10,000 steps", "steps to reach")])
    rows = ROW.findall(card)
    assert rows
    for network, shown_steps, loss, accuracy, tuned, rule in rows:
        steps = int(shown_steps.replace(",", ""))
        runs = results(network, steps, "hrnn-learned")
        assert len(runs) == 3
        assert_medians(
            (network, steps), loss=(loss, losses(runs)),
            accuracy=(accuracy, [run["test_accuracy"] for run in runs]),
            tuned=(tuned, [best_tuned(network, steps)["loss"]]),
            rule=(rule, losses(results(network, steps))))


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert not [line for line in lines if len(line) > 100 and not line.startswith("|")]


def test_no_first_sentence_says_trained_of_what_is_not():
    cards = {name: (ROOT / f"hrnn_opt/pretrained/{name}.md").read_text().split("\n\n")[1]
             for name in ("default", "rule")}
    assert cards["default"].startswith("Not meta-trained")
    assert cards["rule"].startswith("Designed by hand; nothing in it was learned")
