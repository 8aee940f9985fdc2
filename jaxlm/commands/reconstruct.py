"""FIXME Pictures and videos to 3D faces: landmarks, meshes, depth, PNCC, texture, pose."""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags

from jaxlm.predict.faces3d import _VIDEO_SUFFIXES, Reconstructor
from jaxlm.support.errors import BadSample
from jaxlm.support.program import one_sentence, quiet_logs


def main(argv: list[str]) -> None:
    quiet_logs()
    with one_sentence():
        paths = [Path(path).expanduser() for path in argv[1:]]
        if not paths:
            raise ValueError(
                "Name a picture or a video: python -m jaxlm.predict.faces3d --workdir=runs/tddfa portrait.jpg"
            )
        if len({path.stem for path in paths}) < len(paths):
            raise ValueError("Two files of one name would write the same results; give them one by one.")
        boxes = _boxes(BOX.value)
        reconstructor, out = Reconstructor(WORKDIR.value, STEP.value), Path(OUT.value).expanduser()
        out.mkdir(parents=True, exist_ok=True)
        failed = []
        for path in paths:
            try:
                if path.suffix.lower() in _VIDEO_SUFFIXES:
                    print(f"{path}: {reconstructor.write_video(path, out)} frames with a face")
                else:
                    print(f"{path}: {reconstructor.write_picture(path, out, boxes)} faces")
            except (BadSample, OSError) as error:
                failed.append(str(path))
                print(f"Error: {error}", file=sys.stderr)
        print(f"written: {out}")
        if failed:
            raise ValueError(f"{len(failed)} of {len(paths)} files failed: {', '.join(failed)}.")


def _boxes(text: list[str]) -> np.ndarray | None:
    if not text:
        return None
    try:
        return np.array([float(number) for number in text]).reshape(1, 4)
    except ValueError:
        raise ValueError(f"--box must be four numbers x1,y1,x2,y2, got {','.join(text)}.") from None


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py or jaxlm.convert wrote.", required=True)
    OUT = flags.DEFINE_string("out", "faces3d", "Folder of the results.")
    STEP = flags.DEFINE_string("step", "last", "Checkpoint: last, best or its step.")
    BOX = flags.DEFINE_list("box", [], "x1,y1,x2,y2 around a face's landmarks, in pixels of the picture.")
    app.run(main)
