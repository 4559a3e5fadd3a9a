"""The package by itself, as a user gets it: in an empty environment, with one backend."""

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import hrnn_opt

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.jax_only
def test_the_wheel_holds_the_package_alone(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    package = ROOT / "hrnn_opt"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in [
            *package.rglob("*.py"), *package.glob("pretrained/*"), package / "py.typed"]}
    assert set(names) == expected


@pytest.mark.jax_only
def test_a_package_index_would_take_it(wheel):
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.jax_only
def test_versions_are_one(wheel):
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    assert f"\nVersion: {hrnn_opt.__version__}\n" in zipfile.ZipFile(wheel).read(metadata).decode()
    assert f"\nversion: {hrnn_opt.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {hrnn_opt.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.jax_only
def test_the_notebook_runs():
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={
        "metadata": {"path": ROOT}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    ours, adam = (float(loss) for loss in re.findall(r"loss ([\d.]+)", printed))
    assert ours < adam < 0.5


@pytest.mark.jax_only
def test_installed_alone_it_trains_the_readmes_example(wheel, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    # By this environment's pip, which must not find the package here. Most modules are never
    # imported: none is compiled beforehand.
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
         "--disable-pip-version-check", "--no-compile", f"{wheel}[jax]"], check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
    (example, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    # -I: neither this folder nor the surrounding environment can help.
    done = subprocess.run(
        [python, "-I", "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r" loss: ([\d.]+)", done.stdout)]
    assert losses[-1] < 0.8 * losses[0], done.stdout
