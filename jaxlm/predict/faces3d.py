"""Pictures and videos to 3D faces: landmarks, meshes, depth, PNCC, texture, pose.

    python -m jaxlm.predict.faces3d --workdir=runs/tddfa portrait.jpg clip.mp4 --out=faces3d

For a picture: `_mesh`, `_depth`, `_pncc`, `_pose` and `_landmarks` as PNG, and for every face `_<n>.obj` with its
texture, `_<n>.ply` with colours, and its landmarks, parameters and pose in `.json`. For a video: the largest face of
every frame, as `_mesh`, `_pncc` and `_pose` in one MP4 and the numbers in a `.json`. Faces are found by OpenCV's own
frontal detector; `--box=x1,y1,x2,y2` names the face of a picture that it does not find.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxlm import geometry
from jaxlm.data import crops
from jaxlm.data.video_files import VideoFile, VideoWriter
from jaxlm.face3d import mesh_files, parameters, views
from jaxlm.face3d.model_files import model_of
from jaxlm.predict.detectors import HaarDetector
from jaxlm.predict.face_boxes import find_boxes, make_landmarker
from jaxlm.predict.model import TrainedModel, load
from jaxlm.schemes import FACES68
from jaxlm.support import drawing
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_atomically
from jaxlm.support.pictures import decode_image, warp, write_image
from jaxlm.support.progress import progress
from jaxlm.workdir.config_file import load_config

_ROUNDS = 3  # until the crop fits the landmarks
_VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")

# (image (H, W, 3) uint8, box (4,) around its landmarks) -> parameters (P,) in the picture's frame
Regressor = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_regressor(model: TrainedModel) -> Regressor:
    """Parameters of one face in one picture, from the crop `tddfa_landmarks` of its box."""
    config = model.config

    def regress(image: np.ndarray, box: np.ndarray) -> np.ndarray:
        square = crops.crop_box("tddfa_landmarks", box, box.reshape(2, 2), np.ones(2, bool))
        transform = geometry.box_to_crop(square, config.image_size)
        prediction = model.predict(warp(image, transform, config.image_size)[None])
        params = np.asarray(prediction.aux["params"][0], np.float64)
        return parameters.to_picture(params, transform, config.image_size)

    return regress


class Reconstructor:
    """Faces of pictures and videos by one trained workdir.

    Args:
        workdir: of a system "tddfa".
        step: "last", "best" or a number.

    Raises:
        ValueError: for another system.
    """

    def __init__(self, workdir: str | Path, step: str = "last"):
        config = load_config(workdir)
        if config.system != "tddfa":
            raise ValueError(f"{workdir} is of the system {config.system!r}; 3D faces need one of configs/tddfa_*.py.")
        self.config, self.model = config, model_of(config)
        model = load(workdir, step=step)
        self.regress, self.landmarker = make_regressor(model), make_landmarker(model)
        self.renderer = views.FaceRenderer(self.model)
        self.detect = HaarDetector()

    def landmarks(self, params: np.ndarray) -> np.ndarray:
        """(68, 3): x and y in pixels of the picture, y down, and the depth in pixels, nearer is larger."""
        vertices = views.vertices_of(params, self.model)[np.asarray(self.model.landmarks)]
        return np.asarray(parameters.picture_pixels(vertices))

    def faces(self, image: np.ndarray, boxes: np.ndarray | None = None) -> list[np.ndarray]:
        """Parameters (P,) of every face of a picture, in its frame; of the boxes (N, 4) where they are given."""
        found = []
        for box in self.detect(image) if boxes is None else boxes:
            for _ in range(_ROUNDS):
                params = self.regress(image, box)
                box = geometry.box_of_points(self.landmarks(params)[:, :2])
            found.append(params)
        return found

    def write_picture(self, path: Path, out: Path, boxes: np.ndarray | None = None) -> int:
        """Writes everything about the faces of a picture; returns their number.

        Raises:
            BadSample: for a file that is no picture, or without a face.
        """
        image = decode_image(path.read_bytes())
        if image is None:
            raise BadSample(f"{path} is truncated or not a picture.")
        faces = self.faces(image, boxes)
        if not faces:
            raise BadSample(f"{path}: no face was found; name its box with --box=x1,y1,x2,y2.")
        pictures = {name: image for name in ("mesh", "pose", "landmarks")}
        pictures |= {"depth": np.zeros_like(image), "pncc": np.zeros_like(image)}
        entries = []
        for number, params in enumerate(faces):
            name = f"{path.stem}_{number}"
            drawn = self.renderer.views(pictures["mesh"], params)
            pictures["mesh"] = drawn.mesh
            pictures["depth"] = np.maximum(pictures["depth"], drawn.depth[..., None])
            pictures["pncc"] = np.maximum(pictures["pncc"], drawn.pncc)
            pictures["pose"] = views.draw_pose(pictures["pose"], params, self.model)
            points = self.landmarks(params)
            pictures["landmarks"] = drawing.draw_landmarks(pictures["landmarks"], points[:, :2], FACES68)
            self._write_mesh(image, params, out / name)
            entries.append(self._entry(params) | {"landmarks": points.round(3).tolist()})
        for name, picture in pictures.items():
            write_image(out / f"{path.stem}_{name}.png", picture)
        write_atomically(out / f"{path.stem}.json", json.dumps(entries, indent=1) + "\n")
        return len(faces)

    def write_video(self, path: Path, out: Path) -> int:
        """Writes a video's largest face, frame by frame; returns the number of frames with one.

        Raises:
            BadSample: for a file that is no video, or without a face.
        """
        file = VideoFile(path)
        boxes = find_boxes(file, self.detect, self.landmarker, self.config.video.min_iou)
        if not np.isfinite(boxes).any():
            raise BadSample(f"{path}: no face was found in any of {len(boxes)} frames.")
        entries = []
        with VideoWriter(out / f"{path.stem}_3d.mp4", file.fps) as writer:
            for number, (frame, box) in enumerate(
                progress(zip(file, boxes, strict=False), total=len(boxes), desc=f"drawing {path.name}", unit="frame")
            ):
                panels = [frame, frame, frame]
                if np.isfinite(box).all():
                    params = self.regress(frame, box)
                    drawn = self.renderer.views(frame, params)
                    panels = [drawn.mesh, drawn.pncc, views.draw_pose(frame, params, self.model)]
                    entries.append({"frame": number, **self._entry(params)})
                writer.write(np.concatenate([_even(panel) for panel in panels], axis=1))
        write_atomically(out / f"{path.stem}.json", json.dumps(entries) + "\n")
        return len(entries)

    def _entry(self, params: np.ndarray) -> dict[str, Any]:
        return {"pose": views.describe_pose(params), "params": params.tolist()}

    def _write_mesh(self, image: np.ndarray, params: np.ndarray, stem: Path) -> None:
        vertices, triangles = views.vertices_of(params, self.model), np.asarray(self.model.triangles)
        texture = stem.with_name(f"{stem.name}_texture.png")
        write_image(texture, self.renderer.texture(image, params))
        uv = np.asarray(self.model.uv)
        mesh_files.write_obj(stem.with_name(f"{stem.name}.obj"), vertices, triangles, uv=uv, texture=texture.name)
        colors = self.renderer.colors(image, params)
        mesh_files.write_ply(stem.with_name(f"{stem.name}.ply"), vertices, triangles, colors)


def _even(image: np.ndarray) -> np.ndarray:
    """At most 480 pixels high, with sides that video codecs take."""
    scale = min(1.0, 480 / image.shape[0])
    width, height = (2 * round(side * scale / 2) for side in (image.shape[1], image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
