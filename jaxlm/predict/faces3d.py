"""3D faces of pictures and videos: landmarks, meshes, depth, PNCC, texture, pose.

For a picture, `jaxlm reconstruct` writes `_mesh`, `_depth`, `_pncc`, `_pose` and `_landmarks` as PNG, for every face
`_<n>.obj` with its texture and `_<n>.ply` with colours, and a `.json` with the landmarks, parameters and pose of
every face. For a video, it writes an MP4 with mesh, PNCC and pose of the largest face of every frame side by side,
and a `.json` with the parameters and poses. OpenCV's Haar cascades find the faces; `--box=x1,y1,x2,y2` gives the box
of a face of a picture that they miss.
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
from jaxlm.face3d import fitting, mesh_files, parameters, views
from jaxlm.face3d.model_files import load_face_model, model_of
from jaxlm.face3d.morphable import MorphableModel, landmark_model
from jaxlm.predict.detectors import Detector, HaarDetector
from jaxlm.predict.face_boxes import find_boxes, make_landmarker
from jaxlm.predict.inputs import read_picture
from jaxlm.predict.model import TrainedModel, load_model
from jaxlm.predict.predictor import Predictor
from jaxlm.schemes import FACES68
from jaxlm.support import drawing
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_atomically
from jaxlm.support.pictures import warp, write_image
from jaxlm.support.progress import progress

_ROUNDS = 3  # passes of the network, until the crop fits the landmarks

# (image (H, W, 3) uint8, box (4,) around a face's landmarks) -> parameters (P,) in the picture's frame
Regressor = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_regressor(model: TrainedModel) -> Regressor:
    """Returns the function that regresses the parameters of one face, under the crop protocol `tddfa_landmarks`."""
    config = model.config

    def regress(image: np.ndarray, box: np.ndarray) -> np.ndarray:
        square = crops.crop_box("tddfa_landmarks", box=box)
        transform = geometry.box_to_crop(square, config.image_size)
        prediction = model.predict(warp(image, transform, config.image_size)[None])
        params = np.asarray(prediction.aux["params"][0], np.float64)
        return parameters.to_picture(params, transform, config.image_size)

    return regress


def make_fitter(model: TrainedModel, face_model: MorphableModel) -> Regressor:
    """Returns the function that fits a face model to the 68 landmarks that a model finds (`jaxlm.face3d.fitting`)."""
    predictor, sparse = Predictor(model, refine=2), landmark_model(face_model)

    def regress(image: np.ndarray, box: np.ndarray) -> np.ndarray:
        landmarks = predictor(image, box)[0].landmarks[None]
        present = np.ones(landmarks.shape[:2])
        return fitting.fit_landmarks(landmarks, present.astype(bool), present, sparse).params[0]

    return regress


class Reconstructor:
    """Reconstructs the 3D faces of pictures and videos with one trained model.

    Args:
        workdir: folder of a trained or exported system "tddfa". Where it is None, the built-in head is fitted to the
            landmarks that the package's own model finds.
        step: checkpoint, "last", "best" or its number.
        detector: image -> boxes (N, 4); OpenCV's Haar cascades where it is None.

    Raises:
        ValueError: if the workdir holds another system.
    """

    def __init__(self, workdir: str | Path | None = None, step: str = "last", detector: Detector | None = None):
        model = load_model(workdir, step=step)
        self.config = model.config
        if workdir is None:
            self.model = load_face_model("head")
            self.regress, self._rounds = make_fitter(model, self.model), 1
        elif model.config.system == "tddfa":
            self.model = model_of(model.config)
            self.regress, self._rounds = make_regressor(model), _ROUNDS
        else:
            raise ValueError(
                f"{workdir} has the system {model.config.system!r}; 3D faces need one of configs/tddfa_*.py."
            )
        self.landmarker = make_landmarker(model)
        self.renderer = views.FaceRenderer(self.model)
        self.detect = HaarDetector() if detector is None else detector

    def landmarks(self, params: np.ndarray) -> np.ndarray:
        """Landmarks (68, 3): x and y in pixels of the picture (y down), and the depth in pixels (nearer is larger)."""
        vertices = views.vertices_of(params, self.model)[np.asarray(self.model.landmarks)]
        return np.asarray(parameters.picture_pixels(vertices))

    def faces(self, image: np.ndarray, boxes: np.ndarray | None = None) -> list[np.ndarray]:
        """Parameters (P,) of every face of a picture, in its frame; of the faces in `boxes` (N, 4) if given."""
        found = []
        for box in self.detect(image) if boxes is None else boxes:
            for _ in range(self._rounds):
                params = self.regress(image, box)
                box = geometry.box_of_points(self.landmarks(params)[:, :2])
            found.append(params)
        return found

    def write_picture(self, path: Path, out: Path, boxes: np.ndarray | None = None) -> int:
        """Writes the files of a picture's 3D faces into the folder `out`; returns the number of faces.

        Raises:
            BadSample: if the file is not a picture, or no face is found.
        """
        image = read_picture(path)
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
        """Writes the files of a video's largest face into the folder `out`; returns the number of frames with a face.

        Raises:
            BadSample: if the file is not a video, or no face is found.
        """
        file = VideoFile(path)
        boxes = find_boxes(file, self.detect, self.landmarker, self.config.video.min_iou)
        if not np.isfinite(boxes).any():
            raise BadSample(f"{path}: no face was found in any of {len(boxes)} frames.")
        entries = []
        with VideoWriter(out / f"{path.stem}_3d.mp4", file.fps, file) as writer:
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
    """Image resized to a height of at most 480 pixels, with even sides, which video codecs need."""
    scale = min(1.0, 480 / image.shape[0])
    width, height = (2 * round(side * scale / 2) for side in (image.shape[1], image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
