"""Annotations in MATLAB files, plain or HDF5, read into samples. MATLAB counts pixels from 1."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from jaxlm.data.readers import Sample
from jaxlm.support.errors import BadSample

_DAMAGED = (
    OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, EOFError, NotImplementedError, MatReadError,
    zlib.error,
)  # fmt: skip


def read_mat(path: Path, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numeric fields of a MATLAB file of version 7 or older.

    Raises:
        BadSample: for a file that cannot be read, or a field that is missing or does not hold numbers.
    """
    try:
        content = scipy.io.loadmat(path, variable_names=fields)
    except _DAMAGED as error:
        raise BadSample(f"{path} cannot be read as a MATLAB file ({_first_line(error)}).") from None
    for field in fields:
        if field not in content:
            raise BadSample(f"{path} has no field {field}.")
        if content[field].dtype.kind not in "biuf":
            raise BadSample(f"{path}: the field {field} does not hold numbers.")
    return {field: content[field] for field in fields}


def read_cofw(path: Path, suffix: str) -> Iterator[Sample | BadSample]:
    """Samples of `COFW_train.mat` or `COFW_test.mat` (Burgos-Artizzu et al., ICCV 2013), grey or colour: HDF5.

    Args:
        path: with IsTr (pictures), phisTr (29 x, 29 y, 29 occluded) and bboxesTr (x y width height).
        suffix: of the three fields: "Tr" for the training set, "T" for the test set.

    Raises:
        BadSample: for a file that is not of this form.
    """
    images, shapes, boxes = (f"{field}{suffix}" for field in ("Is", "phis", "bboxes"))
    with _open_hdf5(path) as file:
        content: Any = file
        try:
            missing = [field for field in (images, shapes, boxes) if field not in content]
            if missing:
                raise BadSample(f"{path} has no field {', '.join(missing)}: it is not COFW's file.")
            references = np.ravel(content[images])
            annotations, given = np.array(content[shapes]).T, np.array(content[boxes]).T
        except _DAMAGED as error:
            raise (
                error if isinstance(error, BadSample) else BadSample(f"{path} is damaged ({_first_line(error)}).")
            ) from None
        count = len(references)
        if annotations.shape != (count, 87) or given.shape != (count, 4):
            raise BadSample(
                f"{path}: {shapes} is {annotations.shape} and {boxes} {given.shape} where {count} pictures need "
                f"({count}, 87) and ({count}, 4)."
            )
        for number, (reference, shape, box) in enumerate(zip(references, annotations, given, strict=True), start=1):
            where = f"{path}, picture {number}"
            try:
                pixels = np.array(content[reference]).T  # MATLAB stores columns first
            except _DAMAGED as error:
                yield BadSample(f"{where} cannot be read ({_first_line(error)}).")
                continue
            if (
                pixels.dtype != np.uint8
                or not pixels.size
                or pixels.ndim not in (2, 3)
                or pixels.shape[2:] not in ((), (3,))
            ):
                yield BadSample(f"{where} is an array {pixels.shape} of {pixels.dtype}, not a picture.")
                continue
            yield Sample(
                image=_png(pixels),
                landmarks=np.stack([shape[:29], shape[29:58]], axis=-1) - 1.0,
                where=where,
                bbox=corners(box),
                visibility=1.0 - shape[58:],
                key=f"{path.stem}/{number}",
            )


def read_cofw68(path: Path, folder: Path) -> Iterator[Sample | BadSample]:
    """COFW's test set with the 68 landmarks of Ghiasi & Fowlkes (2015): pictures and boxes of COFW's own file.

    Args:
        path: `COFW_test.mat`.
        folder: `annotations/` of `<number>_points.mat` with Points (68, 2) and Occ (68).
    """
    for number, sample in enumerate(read_cofw(path, "T"), start=1):
        if isinstance(sample, Sample):
            points = folder / f"{number}_points.mat"
            try:
                content = read_mat(points, ("Points", "Occ"))
                if content["Points"].shape != (68, 2) or content["Occ"].size != 68:
                    raise BadSample(f"{points} must have 68 Points and 68 flags Occ.")
            except BadSample as error:
                yield error
                continue
            sample.where, sample.landmarks = str(points), content["Points"] - 1.0
            sample.visibility = 1.0 - content["Occ"].ravel()
        yield sample


def read_lsp(folder: Path) -> Iterator[Sample | BadSample]:
    """Samples of Leeds Sports Pose or its extension: `joints.mat` beside `images/im0001.jpg`, …

    Johnson & Everingham, BMVC 2010 and CVPR 2011. The first holds joints (3, 14, N), all of them annotated; the
    extension (14, 3, N), where a flag 0 means that there is no annotation. The box is the whole picture.

    Raises:
        BadSample: for a file that is not of this form, or another number of pictures.
    """
    path = folder / "joints.mat"
    joints = read_mat(path, ("joints",))["joints"]
    if joints.ndim != 3 or joints.shape[:2] not in ((3, 14), (14, 3)):
        raise BadSample(f"{path}: joints is {joints.shape}, where LSP has (3, 14, N) and its extension (14, 3, N).")
    extended = joints.shape[:2] == (14, 3)
    joints = np.moveaxis(joints if extended else joints.transpose(1, 0, 2), 2, 0)  # (N, 14, 3)
    pictures = sorted((folder / "images").glob("im*.jpg"))
    if len(pictures) != len(joints):
        raise BadSample(f"{folder}/images has {len(pictures)} pictures im*.jpg where {path} has {len(joints)}.")
    for picture, joint in zip(pictures, joints, strict=True):
        points = joint[:, :2] - 1.0
        if extended:
            points = np.where(joint[:, 2:] > 0, points, np.nan)
        image = cv2.imread(str(picture), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            yield BadSample(f"{picture} is truncated or not a picture; replace or remove it.")
            continue
        bbox = np.array([-0.5, -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5])
        yield Sample(picture, points, f"{path}, {picture.name}", bbox, key=picture.stem)


def read_aflw(path: Path, folder: Path) -> dict[str, list[Sample | BadSample]]:
    """Splits "train" (20000) and "test" (4386) of AFLW as Zhu et al., CVPR 2016 (CCL), re-annotated it: 19 landmarks.

    Args:
        path: `AFLWinfo_release.mat` with data (N, 38: 19 x, 19 y), mask_new (N, 19, visible), bbox (N, 4: left, right,
            top, bottom), nameList and ra, the order whose first 20000 train.
        folder: of the pictures that nameList names, `data/flickr`.

    Raises:
        BadSample: for a file that is not of this form.
    """
    content = read_mat(path, ("data", "mask_new", "bbox", "ra"))
    points, visible, boxes, order = (content[field] for field in ("data", "mask_new", "bbox", "ra"))
    names = _names(path, "nameList")
    count = len(points)
    shapes = (points.shape, visible.shape, boxes.shape, order.size, len(names))
    if shapes != ((count, 38), (count, 19), (count, 4), count, count):
        raise BadSample(
            f"{path}: data, mask_new, bbox, ra and nameList have {shapes}; expected (N, 38), (N, 19), (N, 4), N, N."
        )
    if sorted(order.ravel()) != list(range(1, count + 1)):
        raise BadSample(f"{path}: ra must hold each number from 1 to {count} once.")
    samples: list[Sample | BadSample] = []
    for index in order.ravel().astype(int) - 1:
        landmarks = points[index].reshape(2, 19).T.astype(np.float64)
        landmarks[(landmarks <= 0).any(axis=1)] = np.nan
        left, right, top, bottom = boxes[index].astype(np.float64)
        seen = visible[index].astype(np.float32)
        where, frontal = f"{path}, row {index + 1}", ("frontal",) if seen.all() else ()
        box = np.array([left, top, right, bottom]) - 1.0
        samples.append(
            Sample(folder / names[index], landmarks - 1.0, where, box, seen, frontal, f"{names[index]}#{index}")
        )
    return {"train": samples[:20000], "test": samples[20000:]}


def _names(path: Path, field: str) -> list[str]:
    try:
        return [str(np.ravel(cell)[0]) for cell in scipy.io.loadmat(path, variable_names=(field,))[field].ravel()]
    except _DAMAGED as error:
        raise BadSample(f"{path}: {field} does not hold names ({_first_line(error)}).") from None


def corners(box: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 from 0 of MATLAB's x y width height from 1."""
    x, y, width, height = np.asarray(box, np.float64)
    return np.array([x - 1, y - 1, x - 1 + width, y - 1 + height])


def _open_hdf5(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise BadSample(f"{path} cannot be read as a MATLAB 7.3 (HDF5) file ({_first_line(error)}).") from None


def _png(pixels: np.ndarray) -> bytes:
    """PNG of a grey (H, W) or RGB (H, W, 3) picture."""
    picture = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", np.ascontiguousarray(picture))[1].tobytes()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
