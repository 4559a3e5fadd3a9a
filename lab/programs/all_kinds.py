"""A suite of each kind of network in `small_real` once with few samples and once with noise,
without its rescaling: `python -m train --modules lab.programs.all_kinds --suite all_kinds`. What may
be learned by heart wants other directions than what may not (page 36)."""

from problems.small_real import small_real
from problems.suites import add_suite

# Perceptrons, convnets, recurrent networks, transformers, autoencoders; two tasks of each network.
_NUMBERS = (*range(12), *range(12, 18), *range(24, 28), *range(36, 40), *range(48, 54))


def _tasks():
    tasks = small_real()
    return [tasks[number].problem for number in _NUMBERS]


add_suite("all_kinds", _tasks)
