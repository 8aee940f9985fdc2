"""Decodes, resamples and writes pictures."""

import contextlib
import io
import warnings
from pathlib import Path

import cv2
import numpy as np

from jaxlm import geometry
from jaxlm.support.files import write_bytes_atomically
from jaxlm.support.limits import file_limit, limit_in_words


def warp(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Samples `image` (H, W, 3) uint8 under `transform` (image → crop) into (size, size, 3); black outside.

    If the crop has less than half the image's resolution, the image is first shrunk by averaging, to avoid aliasing.
    """
    scale = np.sqrt(abs(np.linalg.det(transform[:, :2])))
    if scale < 0.5:
        height, width = image.shape[:2]
        small = max(round(width * scale), 1), max(round(height * scale), 1)
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        sx, sy = width / small[0], height / small[1]
        enlarge = np.array([[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5]])
        transform = geometry.compose_affine(transform, enlarge)
    return cv2.warpAffine(image, transform, (size, size), flags=cv2.INTER_LINEAR)


# Endings of pictures. Files that are named one by one may have any other ending.
PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".pnm",
    ".heic", ".heif",
)  # fmt: skip


def is_picture(path: Path) -> bool:
    """Whether a file's ending or its first bytes are those of a picture."""
    return path.suffix.lower() in PICTURES or (path.is_file() and cv2.haveImageReader(str(path)))


def decode_image(content: bytes, *, upright: bool = True, limited: bool = True) -> np.ndarray | None:
    """Picture (H, W, 3) uint8 RGB from the bytes of a JPEG, PNG, … file; None if they cannot be decoded.

    Grey and CMYK pictures are converted. Of 10, 12 or 16 bits, of which the largest value tells, the upper 8 are kept.
    Of an animation it is the first picture. HEIC needs pillow-heif. `why_undecodable` says why it is None.

    Args:
        content: bytes of the file.
        upright: whether the picture is turned as its EXIF says, as viewers do; otherwise it is as stored.
        limited: whether one that is larger than `jaxlm.support.limits.file_limit` is refused.
    """
    if limited and _stated_size(content) > file_limit():
        return None
    flags = cv2.IMREAD_ANYDEPTH | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    for color in (cv2.IMREAD_COLOR, cv2.IMREAD_ANYCOLOR):  # OpenCV does not make colour of a TIFF of grey floats
        try:
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags | color)
        except cv2.error:
            picture = None
        if picture is not None:
            code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
            return cv2.cvtColor(_to_8_bits(picture), code)
    return _decode_by_pillow(content, upright)


def why_undecodable(content: bytes) -> str:
    """What is wrong with bytes that `decode_image` does not decode, to follow the name of their file."""
    stated = _stated_size(content)
    if stated > file_limit():
        return f"has pixels for {stated / 2**30:.3g} GiB, more than {limit_in_words()}"
    return "is truncated or not a picture; replace or remove it"


def _stated_size(content: bytes) -> int:
    """Bytes of a picture in RGB by its header; 0 if that cannot be read, or Pillow is missing."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return 0
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a decompression bomb, which is not decoded here
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(io.BytesIO(content)) as picture:
                return 3 * picture.width * picture.height
        finally:
            Image.MAX_IMAGE_PIXELS = before
    return 0


def as_stored(content: bytes) -> bytes:
    """Bytes of a picture without the turn of its EXIF: the same bytes where there is none, a PNG otherwise."""
    stored, turned = (decode_image(content, upright=upright) for upright in (False, True))
    if stored is None or turned is None or (stored.shape == turned.shape and (stored == turned).all()):
        return content
    return cv2.imencode(".png", cv2.cvtColor(stored, cv2.COLOR_RGB2BGR))[1].tobytes()


def _to_8_bits(picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint16:
        # Cameras store 10 or 12 bits in 16, which shows by the largest value.
        bits = next(bits for bits in (10, 12, 16) if picture.max() < 1 << bits)
        return (picture >> (bits - 8)).astype(np.uint8)
    if picture.dtype != np.uint8:
        finite = np.nan_to_num(picture.astype(np.float32), posinf=0.0, neginf=0.0)
        return (255 * np.clip(finite / max(float(finite.max()), 1.0), 0, 1)).astype(np.uint8)
    return picture


def _decode_by_pillow(content: bytes, upright: bool) -> np.ndarray | None:
    """The kinds that OpenCV was built without, where Pillow is there."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        return None
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
    except ModuleNotFoundError:
        pass
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if 3 * picture.width * picture.height > file_limit():
                return None
            return np.asarray((ImageOps.exif_transpose(picture) if upright else picture).convert("RGB"))
    except Exception:  # Pillow's plugins raise whatever their decoders do, for damaged files
        return None


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes a picture (H, W, 3) uint8 RGB atomically, as PNG or JPEG by the ending of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_bytes_atomically(path, lambda file: file.write(encoded.tobytes()))


def picture_change(before: np.ndarray, after: np.ndarray, side: int = 16) -> float:
    """1 − correlation of two pictures of one size at `side` × `side` pixels: 0 for the same, about 1 at a scene cut.

    An object that passes in front of a face changes a part of the picture, a cut all of it.
    """
    small = [
        cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.float64)
        for picture in (before, after)
    ]
    a, b = (values - values.mean(axis=(0, 1)) for values in small)
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if max(lengths) < side:  # two pictures of one colour each, up to their noise
        return 0.0
    return 1.0 - float(np.vdot(a, b) / max(lengths[0] * lengths[1], 1e-9))
