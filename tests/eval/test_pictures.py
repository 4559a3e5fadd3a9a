"""What all pictures share."""

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
