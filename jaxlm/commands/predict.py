"""Finds the landmarks of faces in pictures, folders, videos and from a camera.

    jaxlm predict portrait.jpg holiday/ clip.mp4 --out=out       # with the package's own model for 68 landmarks
    jaxlm predict --model=faces98 portrait.jpg --out=out         # with another one of `jaxlm models`
    jaxlm predict --workdir=runs/ldeq portrait.jpg --out=out     # with a trained or an exported model
    jaxlm predict 0 --seconds=20                                 # a camera by its number
    jaxlm predict album/ --out=out --shard=2/8                   # the second of eight machines with one folder

Writes an overlay of each picture (PNG) or video (MP4), the points of each face of a picture (.pts) or of a video (CSV),
`predictions.json` and, for pictures, `predictions.csv`, a data set that `--data=own` reads. Pictures are turned upright
as their EXIF says, and landmarks are those of the upright picture, as everywhere in the package; `--upright=False`
takes the stored pixels.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxlm.commands.options import Inputs
from jaxlm.data.readers.arrays import read_boxes
from jaxlm.predict import detectors
from jaxlm.predict.inputs import find_inputs, read_boxes_csv
from jaxlm.predict.model import shipped_folder, shipped_models
from jaxlm.predict.predictor import Predictor
from jaxlm.predict.session import Session
from jaxlm.predict.video import VideoPredictor
from jaxlm.support.program import make_folder
from jaxlm.support.shards import ALL, parse_shard


@dataclasses.dataclass(frozen=True)
class Options:
    inputs: Inputs
    """Pictures, videos, folders of them, and cameras by their number."""
    workdir: str | None = None
    """Folder that `jaxlm train` or `jaxlm export` wrote, or an exported file."""
    model: str | None = None
    """One of the package's own models, see `jaxlm models`; faces68 without it and without --workdir."""
    out: str = "predicted"
    """Folder of the results."""
    detector: Literal["haar", "centerface", "yunet", "whole"] = "haar"
    """OpenCV's cascades, CenterFace or YuNet (with --detector-file), or the whole picture as one box."""
    detector_file: str | None = None
    """ONNX file of CenterFace or YuNet."""
    boxes: str | None = None
    """A .csv file with image,left,top,right,bottom, or for a video a .npy file (T, 4)."""
    refine: int | None = None
    """How often the crop is taken again around the landmarks; twice for rough boxes without it."""
    method: str | None = None
    """Of videos: rwr, frame, or either with a filter, as in frame+ema:0.7."""
    faces: int = 4
    """Most faces of a video at a time."""
    batch_size: int = 16
    """Faces at a time."""
    seconds: float = 3600.0
    """Of a camera; Ctrl-C ends it earlier."""
    upright: bool = True
    """Turn pictures as their EXIF says."""
    overlays: bool = True
    """Write pictures and videos with landmarks."""
    shard: str | None = None
    """i/n: every n-th file from the i-th, on one of n machines that write to one folder; the last joins the tables."""


def main(options: Options) -> Session:
    """Predicts and writes the results; a file that fails is named, and the rest goes on."""
    import jax

    if not options.inputs:
        raise ValueError("Name pictures, folders, videos or a camera: jaxlm predict portrait.jpg")
    if min(options.faces, options.batch_size) < 1:
        raise ValueError("--faces and --batch-size must be at least 1.")
    if options.model is not None and options.workdir is not None:
        raise ValueError("Name either a --model of the package or a --workdir.")
    if options.model is not None and options.model not in shipped_models():
        raise ValueError(f"The package has no model {options.model!r}; choose one of {', '.join(shipped_models())}.")
    shard = parse_shard(options.shard)
    every = find_inputs(list(options.inputs), Path(options.out).expanduser())
    if shard != ALL and every.cameras:
        raise ValueError("--shard shares out files; a camera has none.")
    inputs = every._replace(pictures=shard.of(every.pictures), videos=shard.of(every.videos))
    out = make_folder(options.out)
    boxes = None if options.boxes is None else Path(options.boxes).expanduser()
    for_video = boxes is not None and boxes.suffix == ".npy"
    if for_video and (len(every.videos) != 1 or every.pictures):
        raise ValueError("--boxes=….npy goes with a single video, --boxes=….csv with pictures.")
    still_boxes = read_boxes_csv(boxes) if boxes is not None and not for_video else None
    predictor = Predictor.load(
        shipped_folder(options.model) if options.model else options.workdir,
        detector=detectors.make_detector(options.detector, options.detector_file),
        refine=options.refine,
        batch_size=options.batch_size,
        **({"min_probability": 0.0} if options.detector == "whole" else {}),  # the user says that there is a face
    )
    follow = VideoPredictor(predictor, max_faces=options.faces, method=options.method) if inputs.videos else None
    session = Session(predictor, out, overlays=options.overlays, upright=options.upright)
    print(f"{predictor.model.name} on {jax.devices()[0].device_kind}")
    for name, reason in shard.of(every.failed):
        session.fail(name, ValueError(reason))
    if every.skipped:
        names = ", ".join(path.name for path in every.skipped[:5]) + (", …" if len(every.skipped) > 5 else "")
        print(f"skipped: {len(every.skipped)} files that are neither pictures nor videos ({names})")
    finished = False
    try:
        if inputs.pictures:
            session.pictures(inputs.pictures, still_boxes, options.batch_size)
        if follow is not None:
            session.videos(inputs.videos, follow, read_boxes(boxes) if boxes and for_video else None)
        for index in inputs.cameras:
            session.camera(index, options.seconds)
        finished = True
    finally:
        if finished or shard == ALL:  # an interrupted share is not complete
            order = [name for name, _ in every.failed]
            order += [str(path.resolve()) for path, _ in every.pictures + every.videos]
            session.write(predictor.model.name, shard, order)
    print(f"written: {out}")
    if session.failed:
        raise ValueError(f"{len(session.failed)} of {len(session.entries)} failed; predictions.json says why.")
    return session
