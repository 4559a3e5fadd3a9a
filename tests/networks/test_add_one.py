"""docs/add_a_learned_optimizer.md: what it shows runs, and passes what every kind must."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import safetensors.numpy

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/add_a_learned_optimizer.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# A check of each sort; all of them take a minute.
CHECKS = (
    "any_gradients or has_always_been_zero or side_by_side or half_of_the_bits or is_saved "
    "or weights_file or meta_gradients or described")


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """A folder that holds the page's module."""
    (tmp_path / "my_optimizer.py").write_text(BLOCKS[0])
    return tmp_path


def python(folder: pathlib.Path, *arguments: str, cwd: pathlib.Path | None = None) -> str:
    """What a Python that finds the page's module prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd or folder, text=True, capture_output=True,
        timeout=500, env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_it_is_used_as_the_page_says(folder):
    (folder / "use.py").write_text(
        BLOCKS[1] + "\nprint(history[0], history[-1], optimizer.network_config.kind)\n")
    first, last, kind = python(folder, "use.py").split()[-3:]
    assert float(last) < 0.7 * float(first) and kind == "signed_momentum"
    assert (folder / "model.keras").exists()


@pytest.mark.jax_only
def test_it_passes_what_every_kind_must(folder):
    (command,) = re.findall(r"python -m (pytest .* -k) signed_momentum", PAGE)
    out = python(folder, "-m", *command.split(), f"signed_momentum and ({CHECKS})",
                 "-o", "addopts=--import-mode=importlib", cwd=ROOT)
    (passed,) = re.findall(r"(\d+) passed", out)
    # By itself and in all rules; of some checks by itself alone.
    assert int(passed) >= 12 and "failed" not in out


@pytest.mark.jax_only
def test_it_is_meta_trained_by_the_pages_command(folder):
    (command,) = re.findall(r"^python (-m train .*)$", PAGE, re.MULTILINE)
    python(folder, *shlex.split(command), *shlex.split(
        "--members 1 --models 1 --families 1 --unroll 2 --run_range 2,2 --steps 1 "
        "--validate_every 0 --suite bowl"))
    trained = safetensors.numpy.load_file(folder / "runs/mine/last.safetensors")
    assert set(trained) == {"decay_logit", "log_sharpness"}
