"""Small data sets in the published layouts, made of drawn faces, for the tests."""

import csv
import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import scipy.io

from jaxlm import geometry
from jaxlm.data.video_batches import Video
from jaxlm.data.video_builder import write_labels
from jaxlm.data.video_files import VideoFile, VideoWriter
from jaxlm.face3d import head
from jaxlm.schemes import FACES68_OF_FACES98


def face(seed: int, size: int = 96, count: int = 68) -> tuple[np.ndarray, np.ndarray]:
    """A picture (size, size, 3) uint8 BGR and its landmarks (count, 2)."""
    rng = np.random.default_rng(seed)
    shape = head.landmarks98()[:, :2] * [1, -1]
    if count == 68:
        shape = shape[FACES68_OF_FACES98]
    scale = size / 190 * rng.uniform(0.85, 1.1)
    points = shape * scale + size * np.array([0.5, 0.32]) + rng.normal(size=2)
    image = np.full((size, size, 3), rng.integers(40, 200, size=3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 1, (255, 255, 255), -1)
    return image, points


def write_pts(folder: Path, count: int, *, prefix: str = "image") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, points = face(number)
        cv2.imwrite(str(folder / f"{prefix}_{number:03d}.png"), image)
        lines = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in points)
        text = f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n"
        (folder / f"{prefix}_{number:03d}.pts").write_text(text)


def write_csv(folder: Path, count: int, *, missing: int = 3) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    header = ["image", *[f"{axis}{i}" for i in range(68) for axis in "xy"]]
    with (folder / "landmarks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number in range(count):
            image, points = face(number)
            name = f"person {number // 2}_{number % 2}.jpg"
            cv2.imwrite(str(folder / "images" / name), image)
            cells = [f"{v:.3f}" for v in points.ravel()]
            cells[: 2 * missing] = [""] * (2 * missing)
            writer.writerow([name, *cells])
    return folder / "landmarks.csv"


def write_coco(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        image, points = face(number)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png"})
        keypoints = np.concatenate([points, np.full((68, 1), 2.0)], axis=1)
        keypoints[0] = 0  # a missing landmark
        keypoints[1, 2] = 1  # an occluded one
        low, high = points.min(axis=0), points.max(axis=0)
        annotations.append(
            {
                "image_id": number,
                "keypoints": keypoints.ravel().tolist(),
                "bbox": [*low.tolist(), *(high - low).tolist()],
            }
        )
    path = folder / "faces.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def write_wflw(root: Path, train: int, test: int) -> None:
    images = root / "WFLW_images" / "0--Parade"
    lists = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    images.mkdir(parents=True, exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        lines = []
        for number in range(count):
            image, points = face(number, count=98)
            name = f"0--Parade/{split} {number}.png"
            cv2.imwrite(str(root / "WFLW_images" / name), image)
            box = [*np.floor(points.min(axis=0)), *np.ceil(points.max(axis=0))]
            flags = [int(number % 2 == 0), 0, 0, 0, int(number % 3 == 0), 0]
            numbers = [*points.ravel(), *box, *flags]
            lines.append(" ".join(f"{v:.4f}" if v % 1 else f"{int(v)}" for v in numbers) + f" {name}")
        (lists / f"list_98pt_rect_attr_{split}.txt").write_text("\n".join(lines) + "\n")


def write_video(path: Path, frames: int, shape=(48, 64), fps: float = 25.0) -> np.ndarray:
    """A grey video in which each frame is brighter than the one before."""
    values = np.linspace(20, 230, max(frames, 1)).astype(np.uint8)
    pictures = np.tile(values[:, None, None, None], (1, *shape, 3))[:frames]
    with VideoWriter(path, fps) as writer:
        for picture in pictures:
            writer.write(picture)
    return pictures


def write_wflwv(root: Path, lengths: dict[str, int]) -> None:
    for number, (key, frames) in enumerate(lengths.items()):
        write_video(root / "videos" / f"{key}.mp4", frames)
        rng = np.random.default_rng(number)
        landmarks = rng.uniform(10, 40, (frames, 98, 2))
        boxes = np.stack([geometry.box_of_points(shape) for shape in landmarks])
        write_labels(root, key, landmarks, np.concatenate([boxes, np.ones((frames, 1))], axis=1))


def moving_box(frames: int) -> np.ndarray:
    start = np.array([10.0, 10.0, 30.0, 30.0])
    return start + np.arange(frames)[:, None]


def video_in(path: Path, boxes: np.ndarray) -> Video:
    write_video(path, len(boxes))
    return Video(VideoFile(path), boxes, np.zeros((len(boxes), 1, 2)), np.zeros((len(boxes), 1), bool))


def write_cofw(root: Path, split: str, count: int, *, color: bool = False) -> list[np.ndarray]:
    """COFW's file as MATLAB writes it: HDF5, columns first, pictures by reference. Returns the landmarks, 0-based."""
    root.mkdir(parents=True, exist_ok=True)
    suffix = {"train": "Tr", "test": "T"}[split]
    shapes, boxes, truth = [], [], []
    with h5py.File(root / f"COFW_{split}{'_color' if color else ''}.mat", "w") as file:
        references = file.create_dataset(f"Is{suffix}", (1, count), dtype=h5py.ref_dtype)
        for number in range(count):
            image, points = face(number)
            points = points[:29]
            pixels = image[..., ::-1] if color else image[..., 0]
            stored = file.create_dataset(f"#refs#/{number}", data=np.ascontiguousarray(pixels.T))
            references[0, number] = stored.ref
            occluded = (np.arange(29) % 5 == 0).astype(float)
            shapes.append([*(points[:, 0] + 1), *(points[:, 1] + 1), *occluded])
            low, high = points.min(axis=0), points.max(axis=0)
            boxes.append([*(low + 1), *(high - low)])
            truth.append(points)
        file[f"phis{suffix}"] = np.array(shapes).T
        file[f"bboxes{suffix}"] = np.array(boxes).T
    return truth


def write_lsp(root: Path, count: int, *, extended: bool) -> np.ndarray:
    """LSP's or its extension's layout. Returns the joints (count, 14, 2), 0-based."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    joints = rng.uniform(5, 70, (count, 14, 2))
    flags = np.ones((count, 14, 1))
    flags[:, 4] = 0
    for number in range(count):
        cv2.imwrite(str(root / "images" / f"im{number + 1:05d}.jpg"), face(number, size=80)[0])
    stored = np.concatenate([joints + 1, flags], axis=-1)
    stored = np.moveaxis(stored, 0, 2) if extended else np.moveaxis(stored, (0, 2), (2, 0))
    scipy.io.savemat(root / "joints.mat", {"joints": stored})
    return joints


def write_aflw(root: Path, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AFLW in CCL's layout. Returns landmarks (count, 19, 2), 0-based, which are visible, and the order of `ra`."""
    rng = np.random.default_rng(0)
    points, visible = rng.uniform(10, 80, (count, 19, 2)), rng.random((count, 19)) < 0.8
    visible[count // 2 :] = True
    order = rng.permutation(count)
    names = np.empty((count, 1), object)
    for number in range(count):
        names[number, 0] = f"{number % 2 * 2}/image{number:05d}.jpg"
        picture = root / "data" / "flickr" / names[number, 0]
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), face(number)[0])
    low, high = points.min(axis=1) + 1, points.max(axis=1) + 1
    content = {
        "data": (points + 1).transpose(0, 2, 1).reshape(count, 38),
        "mask_new": visible.astype(np.uint8),
        "bbox": np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1),
        "nameList": names,
        "ra": order[None] + 1,
    }
    scipy.io.savemat(root / "AFLWinfo_release.mat", content)
    return points, visible, order
