"""Builds `problems/data/small_real.npz` from data that packages carry: see data/README.md there.

Nothing here is needed to use the suite. The packages' files are read where pip put them; none of
the packages is imported but Pillow, which draws and shrinks.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import pathlib
import string
import tarfile
import zipfile
from collections.abc import Iterable

import numpy as np

from hrnn_opt.files.atomic import write_atomic

PHOTOGRAPHS = {
    "photographs": (
        "skimage/data/camera.png", "skimage/data/astronaut.png", "skimage/data/chelsea.png",
        "skimage/data/brick.png", "skimage/data/grass.png", "skimage/data/gravel.png",
        "skimage/data/hubble_deep_field.jpg", "skimage/data/cell.png", "skimage/data/coins.png",
        "skimage/data/rocket.jpg"),
    "held_out_photographs": (
        "skimage/data/coffee.png", "skimage/data/retina.jpg", "skimage/data/ihc.png",
        "skimage/data/clock_motion.png", "sklearn/datasets/images/china.jpg",
        "sklearn/datasets/images/flower.jpg"),
}
_TTF = "matplotlib/mpl-data/fonts/ttf"
GREEK_FONTS = (
    f"{_TTF}/DejaVuSans.ttf", f"{_TTF}/DejaVuSans-Bold.ttf", f"{_TTF}/DejaVuSans-Oblique.ttf",
    f"{_TTF}/DejaVuSerif.ttf", f"{_TTF}/DejaVuSerif-Bold.ttf", f"{_TTF}/DejaVuSansMono.ttf",
    f"{_TTF}/STIXGeneral.ttf", f"{_TTF}/STIXGeneralBol.ttf",
)
FONTS = (
    *GREEK_FONTS,
    f"{_TTF}/DejaVuSerif-Italic.ttf", f"{_TTF}/STIXGeneralItalic.ttf",
    "font_roboto/files/Roboto-Regular.ttf", "font_roboto/files/Roboto-BlackItalic.ttf",
    "font_lato/files/Lato-Light.ttf", "font_lato/files/Lato-Bold.ttf",
    "font_caladea/files/Caladea-Regular.ttf", "font_caladea/files/Caladea-BoldItalic.ttf",
    "font_source_sans_pro/files/SourceSansPro-Semibold.ttf",
    "font_source_serif_pro/files/SourceSerifPro-Light.ttf",
    "font_amatic_sc/files/AmaticSC-Bold.ttf", "font_fredoka_one/files/FredokaOne-Regular.ttf",
)
LETTERS = string.ascii_uppercase + string.ascii_lowercase
GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρστφχψω"
# By how often they come in English: an alphabet of n symbols is the first n - 1 of them, and
# whatever else there is.
ALPHABET = " etaoinshrdlucmfwygpb,.vk'-?xjqz"
TEXTS = {
    "text_alice": ("brotli-1.2.1/tests/testdata/alice29.txt", "Alice was beginning", 80_000),
    "text_paradise": ("brotli-1.2.1/tests/testdata/plrabn12.txt", "Of Man's first", 80_000),
    "held_out_text_as_you_like_it": (
        "brotli-1.2.1/tests/testdata/asyoulik.txt", "As I remember, Adam", 60_000),
}
_ROWS = 1024


def _file(path: str) -> pathlib.Path:
    """A file of an installed package, found without importing the package."""
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ValueError(f"build_small_real: {package} is not installed; see problems/data.")
    found = pathlib.Path(spec.submodule_search_locations[0]) / rest
    if not found.is_file():
        raise ValueError(f"build_small_real: {found} is missing: another version of {package}?")
    return found


def _photographs(paths: Iterable[str]) -> np.ndarray:
    """(n, 96, 96) grey squares from the middles of pictures, in 64 levels."""
    from PIL import Image

    squares = []
    for path in paths:
        picture = Image.open(_file(path)).convert("L")
        side = min(picture.size)
        left, top = ((size - side) // 2 for size in picture.size)
        square = picture.crop((left, top, left + side, top + side))
        squares.append(np.asarray(square.resize((96, 96), Image.Resampling.LANCZOS)))
    return (np.stack(squares) >> 2).astype(np.uint8)


def _letters(letters: str, fonts: Iterable[str]) -> np.ndarray:
    """(letters, fonts, 12, 12) in 16 levels: capitals 8 pixels high, in the middle."""
    from PIL import Image, ImageDraw, ImageFont

    detail = 16
    drawn = np.zeros((len(letters), len(fonts), 12, 12), np.uint8)
    for column, path in enumerate(fonts):
        font = ImageFont.truetype(str(_file(path)), 8 * detail)
        box = font.getbbox("H")
        font = ImageFont.truetype(str(_file(path)), round((8 * detail) ** 2 / (box[3] - box[1])))
        for row, letter in enumerate(letters):
            left, top, right, bottom = font.getbbox(letter)
            canvas = Image.new("L", (12 * detail, 12 * detail))
            place = 6 * detail - (left + right) / 2, 6 * detail - (top + bottom) / 2
            ImageDraw.Draw(canvas).text(place, letter, font=font, fill=255)
            cells = np.asarray(canvas, float).reshape(12, detail, 12, detail)
            drawn[row, column] = np.round(cells.mean(axis=(1, 3)) / 17)
    return drawn


def _numbers(name: str, **how) -> np.ndarray:
    with gzip.open(_file(f"sklearn/datasets/data/{name}.csv.gz"), "rt") as file:
        return np.loadtxt(file, **how)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    rows = _numbers("digits", delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8).astype(np.uint8), rows[:, -1].astype(np.uint8)


def _table(rows: Iterable[Iterable[str]], target: int, drop: tuple[int, ...] = ()) -> np.ndarray:
    """(rows, columns) float16, the target first, each column of mean 0 and deviation 1.

    A column that is not of numbers becomes the places of its values in their sorted order.
    """
    columns = list(zip(*rows, strict=True))
    numbers = []
    for place in (target, *(i for i in range(len(columns)) if i != target)):
        if place in drop:
            continue
        column = columns[place]
        try:
            numbers.append(np.array(column, float))
        except ValueError:
            numbers.append(np.unique(column, return_inverse=True)[1].astype(float))
    table = np.stack(numbers, axis=1)
    if len(table) > _ROWS:
        table = table[np.sort(np.random.default_rng(0).permutation(len(table))[:_ROWS])]
    table = table[:, table.std(axis=0) > 0]
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    return np.clip(table, -6, 6).astype(np.float16)


def _csv(content: str, delimiter: str = ",") -> list[list[str]]:
    """The rows below the heading."""
    return [row for row in csv.reader(io.StringIO(content), delimiter=delimiter)][1:]


def _sklearn(name: str) -> list[list[str]]:
    return _csv(_file(f"sklearn/datasets/data/{name}.csv").read_text())


def _river(name: str) -> list[list[str]]:
    path = _file(f"river/datasets/{name}")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return _csv(archive.read(archive.namelist()[0]).decode())
    return _csv(gzip.decompress(path.read_bytes()).decode())


def _statsmodels(name: str, delimiter: str) -> list[list[str]]:
    return _csv(_file(f"statsmodels/datasets/{name}/{name}.csv").read_text(), delimiter)


def _diabetes() -> np.ndarray:
    return np.column_stack([_numbers("diabetes_target"), _numbers("diabetes_data_raw")])


def _tables() -> dict[str, np.ndarray]:
    """A name that ends in `_classes` says that the first column has no order."""
    shuttle = _river("shuttle.csv.gz")
    wrong = [row for row in shuttle if row[-1] == "1"]
    right = [row for row in shuttle if row[-1] == "0"]
    return {
        "table_iris_classes": _table(_sklearn("iris"), 4),
        "table_wine_classes": _table(_sklearn("wine_data"), 13),
        "table_breast_cancer_classes": _table(_sklearn("breast_cancer"), 30),
        "table_diabetes": _table(_diabetes().astype(str), 0),
        "table_segment_classes": _table(_river("segment.csv.zip"), 18),
        "table_phishing_classes": _table(_river("phishing.csv.gz"), 9),
        "table_solar_flare_classes": _table(_river("solar-flare.csv.zip"), 0),
        "table_anes96": _table(_statsmodels("anes96", "\t"), 5),
        "table_randhie": _table(_statsmodels("randhie", ","), 0),
        # Without the number of the traveller.
        "table_modechoice": _table(_statsmodels("modechoice", ";"), 2, drop=(0,)),
        "table_macrodata": _table(_statsmodels("macrodata", ","), 10),
        # As many of the rare class as of the other.
        "held_out_table_shuttle_classes": _table(right[::60][:512] + wrong[::6][:512], 9),
    }


def _text(archive: tarfile.TarFile, path: str, first: str, length: int) -> np.ndarray:
    """Places in `ALPHABET`, from the first of the words given."""
    text = archive.extractfile(path).read().decode("ascii", "ignore")
    text = text[text.index(first) :].lower().translate(
        str.maketrans({"!": ".", ";": ",", ":": ",", "`": "'", '"': "'", "\t": " ", "\n": " "}))
    text = " ".join("".join(c for c in text if c in ALPHABET).split())[:length]
    return np.array([ALPHABET.index(c) for c in text], np.uint8)


def build(brotli: str, output: str) -> int:
    """Writes the file.

    Args:
        brotli: the sources of Brotli 1.2.1 as PyPI has them, whose tests carry texts.
        output: the .npz to write.

    Returns:
        its bytes.

    Raises:
        ValueError: if a package or the archive is missing or has other files.
    """
    arrays = {name: _photographs(paths) for name, paths in PHOTOGRAPHS.items()}
    arrays["letters"] = _letters(LETTERS, FONTS)
    arrays["held_out_letters"] = _letters(GREEK, GREEK_FONTS)
    arrays["digits"], arrays["digit_labels"] = _digits()
    arrays |= _tables()
    try:
        with tarfile.open(brotli) as archive:
            for name, where in TEXTS.items():
                arrays[name] = _text(archive, *where)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ValueError(f"build_small_real: {brotli!r} is not Brotli's sources ({error}).") from (
            error)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomic(pathlib.Path(output), content.getvalue())
    return len(content.getvalue())
