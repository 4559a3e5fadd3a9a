"""Arrays in MessagePack as Flax writes them: nested maps, whose leaves are an extension of type 1
or 3 with (shape, type, bytes) inside. Reading one can execute nothing, and takes no more memory
than a few times the file.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_MOST_DEPTH = 16
_MOST_ITEMS = 100_000
_MOST_AXES = 32
_ARRAYS = (1, 3)
_DTYPES = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16",
           "uint32", "uint64", "bool"}
_NUMBERS = {0xca: ">f", 0xcb: ">d", 0xcc: ">B", 0xcd: ">H", 0xce: ">I", 0xcf: ">Q", 0xd0: ">b",
            0xd1: ">h", 0xd2: ">i", 0xd3: ">q"}
# (first byte, bytes of the length): texts, bytes, lists, maps, extensions.
_TEXTS = {0xd9: 1, 0xda: 2, 0xdb: 4}
_BYTES = {0xc4: 1, 0xc5: 2, 0xc6: 4}
_LISTS = {0xdc: 2, 0xdd: 4}
_MAPS = {0xde: 2, 0xdf: 4}
_EXTENSIONS = {0xc7: 1, 0xc8: 2, 0xc9: 4}
_FIXED_EXTENSIONS = {0xd4: 1, 0xd5: 2, 0xd6: 4, 0xd7: 8, 0xd8: 16}


def is_map(content: bytes) -> bool:
    """Whether the content may begin a map that is not empty. A pickle begins as an empty one."""
    return bool(content) and (0x80 < content[0] <= 0x8f or content[0] in _MAPS)


def load(content: bytes) -> Any:
    """What the content holds: maps, lists, texts, bytes, numbers, None and arrays.

    Raises:
        ValueError: if it is damaged, ends early, goes on, or holds what a file of arrays does not.
    """
    reader = _Reader(content)
    try:
        value = reader.value(0)
    except (struct.error, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"it is no MessagePack, or damaged: {error}") from None
    if reader.at != len(content):
        raise ValueError("it goes on behind its end")
    return value


def flat(value: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays in nested maps by their keys, joined by `/`; what is no array is left out."""
    if isinstance(value, np.ndarray):
        return {prefix: value}
    if not isinstance(value, dict):
        return {}
    if set(value) == {"name", "fields", "values"}:
        # As Flax wrote named tuples before 2022.
        value = _named(value)
    found: dict[str, np.ndarray] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}/{key}" if prefix else key)
    return found


def _named(value: dict[str, Any]) -> dict[str, Any]:
    def items(part: Any) -> list[Any]:
        return list(part.values()) if isinstance(part, dict) else list(part or [])

    fields, values = items(value["fields"]), items(value["values"])
    if len(fields) != len(values) or not all(isinstance(field, str) for field in fields):
        raise ValueError("a named tuple in it has other fields than values")
    return dict(zip(fields, values))


class _Reader:
    """Reads one value after the other."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at, self.items = content, 0, 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.content):
            raise ValueError("it ends early")
        part, self.at = self.content[self.at : end], end
        return part

    def length(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def value(self, depth: int) -> Any:
        self.items += 1
        if depth > _MOST_DEPTH or self.items > _MOST_ITEMS:
            raise ValueError(
                f"it must have at most {_MOST_ITEMS} items, {_MOST_DEPTH} deep, and has more")
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xe0:
            return first - 0x100
        if first <= 0x8f:
            return self.map(first & 0x0f, depth)
        if first <= 0x9f:
            return [self.value(depth + 1) for _ in range(first & 0x0f)]
        if first <= 0xbf:
            return self.take(first & 0x1f).decode()
        if first in (0xc0, 0xc2, 0xc3):
            return {0xc0: None, 0xc2: False, 0xc3: True}[first]
        if first in _NUMBERS:
            return struct.unpack(
                _NUMBERS[first], self.take(struct.calcsize(_NUMBERS[first])))[0]
        if first in _TEXTS:
            return self.take(self.length(_TEXTS[first])).decode()
        if first in _BYTES:
            return self.take(self.length(_BYTES[first]))
        if first in _LISTS:
            return [self.value(depth + 1) for _ in range(self.length(_LISTS[first]))]
        if first in _MAPS:
            return self.map(self.length(_MAPS[first]), depth)
        if first in _FIXED_EXTENSIONS or first in _EXTENSIONS:
            size = _FIXED_EXTENSIONS.get(first) or self.length(_EXTENSIONS[first])
            kind = self.take(1)[0]
            if kind not in _ARRAYS:
                raise ValueError(f"it has an extension of the unknown type {kind}")
            return _array(self.take(size))
        raise ValueError(f"it has the unknown type {first:#x}")

    def map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise ValueError("the keys of its maps must be texts that differ")
            found[key] = self.value(depth + 1)
        return found


def _array(content: bytes) -> np.ndarray:
    # Its own reader has no arrays in arrays: those would be bytes without a shape.
    parts = load(content)
    if not isinstance(parts, list) or len(parts) != 3:
        raise ValueError("an array in it must be (shape, type, bytes)")
    shape, dtype, data = parts
    if (not isinstance(shape, list) or len(shape) > _MOST_AXES
            or not all(isinstance(n, int) and 0 <= n < 2**31 for n in shape)
            or not isinstance(data, bytes)):
        raise ValueError("an array in it must be (shape, type, bytes)")
    if dtype == "bfloat16":
        wide = np.frombuffer(data, "<u2").astype("uint32") << 16
        return _shaped(wide.view("float32"), shape)
    if dtype not in _DTYPES:
        raise ValueError(f"an array in it is of the type {dtype!r:.40}")
    kind = np.dtype(dtype).newbyteorder("<")
    if len(data) % kind.itemsize:
        raise ValueError("an array in it has a part of a number")
    return _shaped(np.frombuffer(data, kind), shape)


def _shaped(array: np.ndarray, shape: list[int]) -> np.ndarray:
    count = 1
    for n in shape:
        count *= n
    if count != array.size:
        raise ValueError(f"an array in it must have {count} numbers, and has {array.size}")
    return array.reshape(shape)
