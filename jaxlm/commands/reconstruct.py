"""Reconstructs 3D faces of pictures and videos: landmarks, meshes, depth, PNCC, texture, pose.

jaxlm reconstruct portrait.jpg clip.mp4 --out=faces3d                        # by landmarks and the built-in head
jaxlm reconstruct --workdir=runs/tddfa portrait.jpg clip.mp4 --out=faces3d
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from jaxlm.commands.options import Inputs
from jaxlm.data.video_files import is_video
from jaxlm.predict.detectors import make_detector
from jaxlm.predict.faces3d import Reconstructor
from jaxlm.support.errors import BadSample
from jaxlm.support.program import check_names, make_folder, split_commas


def _boxes(text: list[str]) -> np.ndarray | None:
    if not text:
        return None
    try:
        return np.array([float(number) for number in text]).reshape(1, 4)
    except ValueError:
        raise ValueError(f"--box must be four numbers x1,y1,x2,y2, got {','.join(text)}.") from None


@dataclasses.dataclass(frozen=True)
class Options:
    files: Inputs
    """Pictures and videos."""
    workdir: str | None = None
    """Folder of a 3DDFA_V2 that `jaxlm train`, `export` or `convert` wrote; without it the built-in head is fitted."""
    out: str = "faces3d"
    """Folder of the results."""
    step: str = "last"
    """Checkpoint: last, best or its step."""
    detector: Literal["haar", "centerface", "yunet", "whole"] = "haar"
    """OpenCV's cascades, CenterFace or YuNet (with --detector-file), or the whole picture as one box."""
    detector_file: str | None = None
    """ONNX file of CenterFace or YuNet."""
    box: tuple[str, ...] = ()
    """x1,y1,x2,y2 around a face's landmarks, in pixels of the picture."""


def main(options: Options) -> None:
    """Reconstructs the faces of every file; one that fails is named, and the rest goes on."""
    paths = [Path(path).expanduser() for path in options.files]
    check_names(paths, "file")
    boxes = _boxes(split_commas(options.box))
    detector = make_detector(options.detector, options.detector_file)
    reconstructor, out = Reconstructor(options.workdir, options.step, detector), make_folder(options.out)
    failed = []
    for path in paths:
        try:
            if is_video(path):
                print(f"{path}: {reconstructor.write_video(path, out)} frames with a face")
            else:
                print(f"{path}: {reconstructor.write_picture(path, out, boxes)} faces")
        except (BadSample, OSError) as error:
            failed.append(str(path))
            print(f"Error: {error}", file=sys.stderr)
    print(f"written: {out}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(paths)} files failed: {', '.join(failed)}.")
