"""What all pictures share."""

import numpy as np
import pytest

from eval.figures import pictures


@pytest.mark.parametrize("high, labels", [
    (1000, ["50", "100", "200", "500", "1,000"]), (50_000, ["10^{2}", "10^{3}", "10^{4}"])])
def test_a_short_log_axis_has_plain_numbers(tmp_path, high, labels):
    figure, axes = pictures.panels(1, 1)
    axes[0, 0].plot([50, high], [1, 1])
    axes[0, 0].set(xscale="log", xlim=(50, high))
    pictures.save(figure, tmp_path / "a.png")
    axis = axes[0, 0].xaxis
    places = [x for x in axis.get_majorticklocs() if 50 <= x <= high]
    shown = axis.get_major_formatter().format_ticks(places)
    assert len(shown) == len(labels)
    assert all(label in text for label, text in zip(labels, shown))


def test_a_label_of_what_is_below_a_log_axis_is_at_its_bottom():
    axis = pictures.panels(1, 1)[1][0, 0]
    axis.plot([1, 2], [1e-3, 1.0])
    axis.set(yscale="log", ylim=(1e-3, 1.0))
    pictures.labels(axis, ["some", "none", "all"], 2, np.array([0.1, 0.0, 1.0]), ["k"] * 3)
    heights = {text.get_text(): text.xyann[1] for text in axis.texts}
    assert 0 <= heights["none"] < 0.1 < heights["some"] < heights["all"] <= 1
