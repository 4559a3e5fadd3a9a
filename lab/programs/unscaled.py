"""A suite for the first stage of meta-training: `small_real` as it is, without its rescaling.

With step control held, what a task's scale asks for is not to be learned: `python -m train
--modules lab.programs.unscaled --suite small_real_unscaled`.
"""

from problems.small_real import small_real
from problems.suites import add_suite

add_suite("small_real_unscaled", lambda: [task.problem for task in small_real()])
