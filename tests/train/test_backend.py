"""Meta-training is written in JAX; what evaluation shares with it runs on every backend."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def on_torch(program):
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, "KERAS_BACKEND": "torch"}, timeout=300)


def test_on_another_backend_it_is_refused_and_progress_is_not():
    done = on_torch(
        "import eval.runs.store, train.progress\n"
        "try:\n    import train.tasks\nexcept ImportError as error:\n    print(error)")
    assert done.returncode == 0, done.stderr
    assert "meta-training needs Keras's JAX backend" in done.stdout and "'torch'" in done.stdout
