"""Files that `jaxlm.predict` writes: overlays, points, tables."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxlm import geometry
from jaxlm.data.video_files import VideoFile, VideoWriter
from jaxlm.predict.follower import Track
from jaxlm.predict.predictor import Face
from jaxlm.schemes import Scheme
from jaxlm.support import drawing
from jaxlm.support.files import write_atomically
from jaxlm.support.shards import ALL, Shard, write_part

_LARGEST_OVERLAY = 1600  # pixels of the longer side
_LARGEST_VIDEO = 1280


def overlay(
    image: np.ndarray, faces: Sequence[np.ndarray], scheme: Scheme, largest: int = _LARGEST_OVERLAY
) -> np.ndarray:
    """Picture with the landmarks (K, 2) of each face in a colour of its own, at most `largest` pixels on a side."""
    scale = min(1.0, largest / max(image.shape[:2]))
    if scale < 1:
        size = tuple(max(round(side * scale), 1) for side in (image.shape[1], image.shape[0]))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for number, landmarks in enumerate(faces):
        points = geometry.rescale_points(np.asarray(landmarks, np.float64), scale)
        image = drawing.draw_landmarks(image, points, scheme, color=drawing.color_of(number))
    return image


def write_points(path: Path, landmarks: np.ndarray) -> None:
    """Writes landmarks (K, 2) in 300-W's format `.pts`, which counts pixels from 1."""
    lines = [f"{x:.3f} {y:.3f}" for x, y in np.asarray(landmarks, np.float64) + 1.0]
    text = "\n".join(["version: 1", f"n_points: {len(lines)}", "{", *lines, "}"])
    write_atomically(path, text + "\n")


def write_video(path: Path, file: VideoFile, tracks: Sequence[Track], scheme: Scheme) -> None:
    """Writes the video with the landmarks of every face drawn."""
    with VideoWriter(path, file.fps, file) as writer:
        for number, frame in enumerate(file):
            faces = [track.landmarks[number] for track in tracks if number < len(track.landmarks)]
            writer.write(overlay(frame, [face for face in faces if np.isfinite(face).all()], scheme, _LARGEST_VIDEO))


def video_csv(tracks: Sequence[Track], seconds: np.ndarray) -> str:
    """CSV with frame,second,face,score,x0,y0,…: a line for each face of each frame; 0-based pixels of the video."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    count = tracks[0].landmarks.shape[1] if tracks else 0
    writer.writerow(["frame", "second", "face", "score", *coordinate_names(count)])
    for frame in range(max((len(track.landmarks) for track in tracks), default=0)):
        for face, track in enumerate(tracks):
            if np.isfinite(track.landmarks[frame]).all():
                values = [f"{value:.3f}" for value in track.landmarks[frame].ravel()]
                score = f"{track.score[frame].mean():.4f}"
                writer.writerow([frame, f"{seconds[frame]:.3f}", face, score, *values])
    return text.getvalue()


def track_of_faces(faces: Sequence[Face | None], num_landmarks: int) -> Track:
    """Track of one face from its results in successive frames; NaN where there is none."""
    landmarks, score = np.full((len(faces), num_landmarks, 2), np.nan), np.full((len(faces), num_landmarks), np.nan)
    for number, face in enumerate(faces):
        if face is not None:
            landmarks[number], score[number] = face.landmarks, face.score
    return Track(landmarks, score, np.zeros(len(faces), bool))


def coordinate_names(count: int) -> list[str]:
    """Column names of `count` landmarks: x0, y0, x1, …"""
    return [f"{axis}{number}" for number in range(count) for axis in "xy"]


def pictures_csv(entries: Sequence[dict[str, Any]], num_landmarks: int) -> str:
    """CSV with image,face,score,left,top,right,bottom,x0,y0,…: a line for each face of each picture."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "face", "score", "left", "top", "right", "bottom", *coordinate_names(num_landmarks)])
    for entry in entries:
        for number, face in enumerate(entry.get("faces", ())):
            # As floats, because JSON has null for NaN.
            box, landmarks, score = (np.array(face[name], np.float64) for name in ("box", "landmarks", "score"))
            values = [f"{value:.3f}" for value in (*box, *landmarks.ravel())]
            writer.writerow([entry["file"], number, f"{score.mean():.4f}", *values])
    return text.getvalue()


def write_tables(
    folder: Path,
    model: str,
    scheme: Scheme,
    entries: Sequence[dict[str, Any]],
    shard: Shard = ALL,
    order: Sequence[str] = (),
    *,
    upright: bool = True,
) -> None:
    """Writes `predictions.json` about all pictures and videos, and `predictions.csv` about the pictures.

    Args:
        folder: folder of the results.
        model: where the model was loaded from.
        scheme: scheme of the landmarks.
        entries: a dict for each picture or video with "file" and one of "faces" (for a picture), "table" (for a
            video) or "error".
        shard: share of the files that the entries are about; the tables are written when every share has been.
        order: "file" of the entries of all shares, in the order of the joined table.
        upright: whether pictures were turned as their EXIF says, and the coordinates are those of the turned picture.
    """

    def join(parts: list[dict[str, Any]]) -> dict[str, Any]:
        places = {file: place for place, file in enumerate(order)}
        entries = [entry for part in parts for entry in part["files"]]
        entries.sort(key=lambda entry: places.get(entry["file"], len(places)))
        return {**parts[0], "files": entries}

    content = {"model": model, "scheme": scheme.name, "coordinates": "pixels, 0-based"}
    content |= {"orientation": "upright by EXIF" if upright else "as stored", "files": list(entries)}
    whole = write_part(folder / "predictions.json", content, shard, join, run=[model, *order])
    if whole is not None:
        pictures = [entry for entry in whole["files"] if "faces" in entry]
        write_atomically(folder / "predictions.csv", pictures_csv(pictures, scheme.num_landmarks))
