import os
import stat

import pytest

from hrnn_opt.files.atomic import write_atomic


def test_a_file_is_written_over_and_may_be_read_by_all(tmp_path):
    path = tmp_path / "file"
    for content in (b"old and long", b"new"):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)

        def record(*arguments, real=real, step=step):
            calls.append((step, *arguments))
            real(*arguments)

        monkeypatch.setattr(os, step, record)
    write_atomic(tmp_path / "file", b"content")
    (first, _), (second, temporary, _) = calls
    assert (first, second) == ("fsync", "replace")
    # Only within a folder is a rename sure to be atomic.
    assert os.path.dirname(temporary) == str(tmp_path)
