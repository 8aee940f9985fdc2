"""FIXME Landmarks of faces in pictures, folders, videos and from a camera."""

import csv
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from jaxlm.data.video_builder import load_boxes
from jaxlm.data.video_files import PICTURES, VIDEOS
from jaxlm.predict import detectors
from jaxlm.predict.predictor import Predictor
from jaxlm.predict.session import Session
from jaxlm.predict.video import VideoPredictor
from jaxlm.support.program import make_folder, one_sentence, parse_flags, quiet_logs


class Inputs(NamedTuple):
    """What the command line names; every file with the name of its results, without ending."""

    pictures: list[tuple[Path, str]]
    videos: list[tuple[Path, str]]
    cameras: list[int]


def find_inputs(names: list[str], out: Path | None = None) -> Inputs:
    """Files, all files within folders but those below `out`, and cameras.

    Raises:
        ValueError: if a file does not exist or is neither a picture nor a video, or a folder holds none.
    """
    inputs, used = Inputs([], [], []), {"predictions", *(f"camera{name}" for name in names)}
    for name in names:
        path = Path(name).expanduser()
        if name.isdigit() and not path.exists():
            inputs.cameras.append(int(name))
            continue
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
        files = [path]
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in PICTURES + VIDEOS and file.is_file())
            own = None if out is None else out.resolve()
            files = sorted(file for file in found if own is None or own not in file.resolve().parents)
            if not files:
                raise ValueError(f"{path} holds no picture and no video ({', '.join(PICTURES + VIDEOS)}).")
        for file in files:
            kind = inputs.videos if file.suffix.lower() in VIDEOS else inputs.pictures
            if file.suffix.lower() not in PICTURES + VIDEOS:
                raise ValueError(f"{file} is neither a picture nor a video ({', '.join(PICTURES + VIDEOS)}).")
            stem = file.relative_to(path).with_suffix("").as_posix().replace("/", "_") if path.is_dir() else file.stem
            stem = next(
                s for s in itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2))) if s not in used
            )
            used.add(stem)
            kind.append((file, stem))
    return inputs


def read_boxes(path: Path) -> dict[str, np.ndarray]:
    """Boxes (N, 4) by their picture as it is written in a CSV file with the columns image, left, top, right, bottom.

    Raises:
        ValueError: naming the line that cannot be read.
    """
    columns = ("left", "top", "right", "bottom")
    boxes: dict[str, list[list[float]]] = {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(line[:10_000] for line in file)
        missing = [name for name in ("image", *columns) if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}, line 1: the header lacks {', '.join(missing)}.")
        for row in reader:
            try:
                boxes.setdefault(row["image"].strip(), []).append([float(row[name]) for name in columns])
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {reader.line_num}: left, top, right, bottom must be numbers.") from None
    return {name: np.array(rows) for name, rows in boxes.items()}


def main(argv: list[str]) -> None:
    quiet_logs()
    with one_sentence():
        if len(argv) < 2:
            raise ValueError("Name pictures, folders, videos or a camera: python -m jaxlm.predict portrait.jpg")
        out = Path(OUT.value).expanduser()
        inputs, out = find_inputs(argv[1:], out), make_folder(out)
        boxes_file = None if BOXES.value is None else Path(BOXES.value).expanduser()
        for_video = boxes_file is not None and boxes_file.suffix == ".npy"
        if for_video and (len(inputs.videos) != 1 or inputs.pictures):
            raise ValueError("--boxes=….npy goes with a single video, --boxes=….csv with pictures.")
        still_boxes = read_boxes(boxes_file) if boxes_file is not None and not for_video else None
        predictor = Predictor.load(
            WORKDIR.value,
            detector=detectors.make_detector(DETECTOR.value, yunet=YUNET.value),
            refine=REFINE.value,
            batch_size=BATCH_SIZE.value,
        )
        follow = VideoPredictor(predictor, max_faces=FACES.value, method=METHOD.value) if inputs.videos else None
        session = Session(predictor, out, overlays=OVERLAYS.value)
        print(f"{predictor.model.name} on {jax.devices()[0].device_kind}")
        try:
            if inputs.pictures:
                session.pictures(inputs.pictures, still_boxes, BATCH_SIZE.value)
            if follow is not None:
                session.videos(inputs.videos, follow, load_boxes(boxes_file) if boxes_file and for_video else None)
            for index in inputs.cameras:
                session.camera(index, SECONDS.value)
        finally:
            session.write(predictor.model.name)
        print(f"written: {out}")
        if session.failed:
            raise ValueError(f"{len(session.failed)} of {len(session.entries)} failed; predictions.json says why.")


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string(
        "workdir", None, "Folder that train.py or jaxlm.export wrote, or an exported file; the package's own model."
    )
    OUT = flags.DEFINE_string("out", "predicted", "Folder of the results.")
    DETECTOR = flags.DEFINE_string("detector", "haar", f"One of {', '.join(detectors.DETECTORS)}.")
    YUNET = flags.DEFINE_string("yunet", None, "YuNet's ONNX file, for --detector=yunet.")
    BOXES = flags.DEFINE_string(
        "boxes", None, "A .csv file with image,left,top,right,bottom, or for a video a .npy file (T, 4)."
    )
    REFINE = flags.DEFINE_integer(
        "refine", None, "How often the crop is taken again around the landmarks; twice for rough boxes."
    )
    METHOD = flags.DEFINE_string("method", None, "Of videos: rwr, frame, or either with a filter, as in frame+ema:0.7.")
    FACES = flags.DEFINE_integer("faces", 4, "Most faces of a video at a time.", lower_bound=1)
    BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Faces at a time.", lower_bound=1)
    SECONDS = flags.DEFINE_float("seconds", 3600.0, "Of a camera; Ctrl-C ends it earlier.")
    OVERLAYS = flags.DEFINE_bool("overlays", True, "Whether to write pictures and videos with landmarks.")
    app.run(main, flags_parser=parse_flags)
