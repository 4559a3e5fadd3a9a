"""Files that are there whole or not at all, and archives of arrays from anyone."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary file beside the path, flush it to the disk, then rename it.

    Whatever kills the program, the path holds the old content or the new. The folder must exist.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            # A rename may reach the disk before the content does.
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_npz(path: str | os.PathLike[str] | io.BytesIO, most: int) -> dict[str, np.ndarray]:
    """The arrays in an .npz file, by name; no pickles.

    `numpy.load` would make room for whatever size a file claims.

    Args:
        path: of the file, or its content.
        most: bytes that all arrays together may have.

    Raises:
        ValueError: if there is no such file, it is none or damaged, or its arrays are too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > most:
                raise ValueError(f"its arrays have more than {most} bytes")
            # No more than `file_size` of an entry is unpacked, whatever is in it.
            return {
                entry.filename.removesuffix(".npy"): _array(archive.read(entry))
                for entry in entries}
    # What zipfile and numpy raise at damaged bytes.
    except (
        OSError, ValueError, TypeError, AttributeError, EOFError, KeyError, NotImplementedError,
        RuntimeError, SyntaxError, OverflowError, zipfile.BadZipFile, zlib.error,
    ) as error:
        raise ValueError(f"not an .npz file without pickles ({error})") from None


def _array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array in the unknown format {version}")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    array = np.frombuffer(content, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if fortran else "C")
