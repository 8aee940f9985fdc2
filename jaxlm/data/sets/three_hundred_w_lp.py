"""300W-LP and AFLW2000-3D (Zhu et al., CVPR 2016): faces with 3DMM parameters, evaluated by yaw."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.readers.arrays import read_npy
from jaxlm.data.samples import YAW_BINS, Sample, yaw_bin
from jaxlm.face3d import head, parameters
from jaxlm.schemes import FACES68_OF_FACES98
from jaxlm.support.errors import BadSample
from jaxlm.support.matlab import read_mat
from jaxlm.support.pictures import decode_image

BFM_MODES = (199, 29)  # numbers of identity and expression modes in the files


def params_of_pose(pose: np.ndarray, shape: np.ndarray, expression: np.ndarray, height: int) -> np.ndarray:
    """Parameters (12 + I + E,) in the picture's frame (`jaxlm.face3d.parameters`) from the fields of 300W-LP.

    Args:
        pose: (7,) Pose_Para: pitch, yaw, roll in radians, translation (3) in 1-based pixels with y up, scale.
        shape: (I,) Shape_Para.
        expression: (E,) Exp_Para.
        height: height of the picture in pixels.
    """
    pose = pose.astype(np.float64)
    rotation = parameters.rotation_of_angles(*np.rad2deg(pose[:3]))
    # In 300W-LP a vertex lies at column x − 1 and row height − y, counted from 0.
    shift = np.array([pose[3] - 1.0, pose[4] - height, 0.0])
    transform = np.concatenate([pose[6] * rotation, shift[:, None]], axis=1)
    return np.concatenate([transform.ravel(), shape, expression])


def read_3ddfa_folder(folder: Path, labels: np.ndarray | None = None) -> Iterator[Sample | BadSample]:
    """Samples of a folder and its subfolders: one for each picture with a `.mat` file of 3DDFA beside it.

    Landmarks are `pt3d_68` (AFLW2000-3D) or `pt2d` (300W-LP). The parameters are those of Pose_Para, Shape_Para and
    Exp_Para with all coefficients. The subset is the bin of the yaw. A file that cannot be used is yielded as a
    BadSample.

    Args:
        folder: folder of the data set.
        labels: (N, 2 or 3, 68) landmarks of other annotators in 1-based pixels, in the order of the file names; None
            for those of the `.mat` files.

    Raises:
        ValueError: if the number of labels is not the number of faces.
    """
    paths = sorted(path for path in folder.rglob("*.mat") if path.with_suffix(".jpg").exists())
    if labels is not None and len(labels) != len(paths):
        raise ValueError(f"The labels are of {len(labels)} faces where {folder} has {len(paths)}.")
    for number, path in enumerate(paths):
        try:
            yield _read_3ddfa(path, folder, None if labels is None else labels[number])
        except BadSample as error:
            yield error


def _read_3ddfa(path: Path, folder: Path, label: np.ndarray | None) -> Sample:
    picture = path.with_suffix(".jpg")
    pose, shape, motion = (read_mat(path, (name,))[name].ravel() for name in ("Pose_Para", "Shape_Para", "Exp_Para"))
    if (pose.size, shape.size, motion.size) != (7, *BFM_MODES):
        raise BadSample(
            f"{path} has {pose.size}, {shape.size} and {motion.size} parameters of pose, shape and expression; "
            "3DDFA's files have 7, 199 and 29."
        )
    if label is None:
        try:
            label = read_mat(path, ("pt3d_68",))["pt3d_68"]
        except BadSample:
            label = read_mat(path, ("pt2d",))["pt2d"]
    if label.shape not in ((2, 68), (3, 68)):
        raise BadSample(f"{path}: the landmarks are {label.shape} where (2, 68) or (3, 68) is expected.")
    image = cv2.imread(str(picture), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise BadSample(f"{picture} is truncated or not a picture; replace or remove it.")
    return Sample(
        picture,
        label[:2].T.astype(np.float64) - 1.0,
        str(path),
        subsets=(yaw_bin(float(np.rad2deg(pose[1]))),),
        key=picture.relative_to(folder).with_suffix("").as_posix(),
        params=params_of_pose(pose, shape, motion, len(image)),
    )


def read_catalogue(folder: Path) -> Iterator[Sample]:
    """Samples of `the300w_lp` or `aflw2k3d` of the TFDS catalogue, prepared with `file_format="array_record"`.

    The catalogue has no file names, so the faces of one picture cannot be kept together. Its AFLW2000-3D has no
    parameters; the yaw is that of the built-in head, aligned with the 3D landmarks.

    Args:
        folder: folder of the prepared version, with `dataset_info.json`.

    Raises:
        BadSample: if it was prepared as TFRecords, which only TensorFlow reads, or is another data set.
    """
    builder: Any = tfds.builder_from_directory(folder)
    features: Any = builder.info.features
    fields = set(features or {})
    if "pose_params" not in fields and "landmarks_68_3d_z" not in fields:
        raise BadSample(f"{folder} is neither the300w_lp nor aflw2k3d of the TFDS catalogue.")
    try:
        records = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError:
        name = builder.info.name
        raise BadSample(
            f"{folder} is made of TFRecords, which only TensorFlow reads: prepare it again with "
            f'tfds.builder("{name}", file_format="array_record").download_and_prepare().'
        ) from None
    for number in range(len(records)):
        record, where = records[number], f"{folder}, record {number}"
        image = record["image"]
        if "pose_params" in fields:
            points, angles = record["landmarks_3d"] * 450.0, np.rad2deg(record["pose_params"][:3])
            height = decode_image(image).shape[0]  # pyright: ignore[reportOptionalMemberAccess]
            params = params_of_pose(record["pose_params"], record["shape_params"], record["exp_params"], height)
        else:
            points, params = record["landmarks_68_3d_xy_normalized"] * 450.0, None
            solid = np.concatenate([points * [1.0, -1.0], record["landmarks_68_3d_z"]], axis=1)
            angles = parameters.angles_of_rotation(_rotation_between(_head_landmarks(), solid))
        yaw = (yaw_bin(float(angles[1])),)
        yield Sample(image, points.astype(np.float64) - 1.0, where, subsets=yaw, key=f"{number:06d}", params=params)


def _head_landmarks() -> np.ndarray:
    return head.landmarks98()[FACES68_OF_FACES98]


def _rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) that best aligns points `source` (K, 3) with `target` (K, 3), after centring (Kabsch)."""
    left, _, right = np.linalg.svd((target - target.mean(axis=0)).T @ (source - source.mean(axis=0)))
    sign = np.sign(np.linalg.det(left @ right))
    return left @ np.diag([1.0, 1.0, sign]) @ right


class ParamsBuilder(FaceBuilder):
    """Base of the builders of faces by yaw. SUBSETS are the bins of yaw; the papers report the mean over the bins."""

    SUBSETS = YAW_BINS
    SCHEME = "faces68"

    def check_root(self):
        super().check_root()
        if self.scheme.name != self.SCHEME:
            raise ValueError(f"{type(self).__name__} has the scheme {self.SCHEME}, not {self.scheme.name!r}.")


class ThreeHundredWLP(ParamsBuilder):
    """300W-LP (Zhu et al., CVPR 2016): the folder as published, or the TFDS catalogue's `the300w_lp/1.0.0`.

    The parameters are those of 3DDFA for the Basel Face Model. Mirrored faces (`*_Flip`) are separate samples.
    """

    MODES = BFM_MODES

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        if (self.root / "dataset_info.json").exists():
            return {"train": read_catalogue(self.root)}
        return {"train": read_3ddfa_folder(self.root)}


class Aflw2000(ParamsBuilder):
    """AFLW2000-3D (Zhu et al., CVPR 2016), split "test": the folder as published, or the catalogue's `aflw2k3d/1.0.0`.

    Args:
        root, cache, scheme and the rest: see `FaceBuilder`.
        labels: `.npy` file (N, 2 or 3, 68) with landmarks of other annotators in the order of the pictures' names, such
            as 3DDFA's re-annotation (`AFLW2000-3D-Reannotated.pts68.npy`); "" for the original landmarks.
    """

    def __init__(self, root, cache, *, scheme: str, labels: str = "", **options):
        self.labels = Path(labels).expanduser() if labels else None
        if not (Path(root).expanduser() / "dataset_info.json").exists():
            self.MODES = BFM_MODES  # the catalogue has no parameters
        super().__init__(root, cache, scheme=scheme, **options)

    def fingerprint(self):
        return [*super().fingerprint(), *([] if self.labels is None else [str(self.labels.stat())])]

    def check_root(self):
        super().check_root()
        if self.labels is not None and not self.labels.is_file():
            raise ValueError(f"{self.labels} does not exist: set labels to the re-annotation, or to ''.")

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        if (self.root / "dataset_info.json").exists():
            if self.labels is not None:
                raise ValueError(
                    "The TFDS catalogue has no file names, which labels need: set root to AFLW2000-3D as published, or "
                    "labels to ''."
                )
            return {"test": read_catalogue(self.root)}
        labels = None if self.labels is None else read_npy(self.labels)
        return {"test": read_3ddfa_folder(self.root, labels)}
