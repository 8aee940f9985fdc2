"""Damaged files of every kind end in one sentence that names the file: python -m pytest -m fuzz"""

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import scipy.io
from data_sets import face, write_coco, write_cofw, write_csv, write_lsp, write_pts, write_wflw

from jaxlm.convert import torch_files
from jaxlm.data.readers.arrays import read_boxes, read_npz
from jaxlm.data.readers.coco import read_coco
from jaxlm.data.readers.imglab import read_imglab
from jaxlm.data.readers.points import read_counted_points, read_points_folder, read_pts
from jaxlm.data.readers.tables import read_csv
from jaxlm.data.samples import validate
from jaxlm.data.sets.cofw import read_cofw
from jaxlm.data.sets.lsp import read_lsp
from jaxlm.data.sets.wflw import read_wflw
from jaxlm.face3d.ict_files import read_obj
from jaxlm.face3d.model_files import read_arrays, read_vertex_indices
from jaxlm.predict import scores
from jaxlm.predict.inputs import read_boxes_csv
from jaxlm.predict.model import load_model, shipped_folder
from jaxlm.support import pictures
from jaxlm.support.errors import BadSample
from jaxlm.workdir.config_file import load_config

SEED, TIMES = 0, 90  # of each kind; 26 kinds are more than 2,000 files


class Kind(NamedTuple):
    """A file that is damaged, and what reads it."""

    file: Path
    read: Callable[[], object]


def every(samples) -> None:
    """Reads all samples and their pictures; a bad one must name its file, as an exception does."""
    for sample in samples:
        if isinstance(sample, BadSample):
            raise sample
        validate(sample)


def pts(folder: Path) -> Kind:
    write_pts(folder, 1)
    return Kind(folder / "image_000.pts", lambda: read_pts(folder / "image_000.pts", 68))


def picture(ending: str) -> Callable[[Path], Kind]:
    def make(folder: Path) -> Kind:
        write_pts(folder, 1)
        (folder / "image_000.png").unlink()
        file = folder / f"image_000{ending}"
        cv2.imwrite(str(file), face(0)[0])
        return Kind(file, lambda: every(read_points_folder(folder, 68)))

    return make


def counted(folder: Path) -> Kind:
    folder.mkdir()
    lines = "\n".join(f"{x:.3f} {y:.3f}" for x, y in face(0)[1])
    (folder / "counted.txt").write_text(f"68\n{lines}\n")
    return Kind(folder / "counted.txt", lambda: read_counted_points(folder / "counted.txt", 68))


def rct(folder: Path) -> Kind:
    write_pts(folder, 1)
    (folder / "image_000.rct").write_text("10 12 80 85")
    return Kind(folder / "image_000.rct", lambda: every(read_points_folder(folder, 68)))


def csv(folder: Path) -> Kind:
    path = write_csv(folder, 3)
    return Kind(path, lambda: every(read_csv(path, 68)))


def coco(folder: Path) -> Kind:
    path = write_coco(folder, 3)
    return Kind(path, lambda: every(read_coco(path, 68)))


def imglab(folder: Path) -> Kind:
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), face(0)[0])
    parts = "".join(f"<part name='{i:02}' x='{x:.0f}' y='{y:.0f}'/>" for i, (x, y) in enumerate(face(0)[1]))
    box = f"<box top='4' left='6' width='80' height='70'>{parts}</box>"
    text = f"<?xml version='1.0'?><dataset><images><image file='a.png'>{box}</image></images></dataset>"
    (folder / "faces.xml").write_text(text)
    return Kind(folder / "faces.xml", lambda: every(read_imglab(folder / "faces.xml", 68)))


def wflw(folder: Path) -> Kind:
    write_wflw(folder, 2, 1)
    lists = folder / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"
    return Kind(lists, lambda: every(read_wflw(lists, folder / "WFLW_images")))


def cofw(folder: Path) -> Kind:
    write_cofw(folder, "test", 2)
    file = next(path for path in folder.rglob("*.mat"))
    return Kind(file, lambda: every(read_cofw(file, "T")))


def lsp(folder: Path) -> Kind:
    write_lsp(folder, 2, extended=False)
    return Kind(folder / "joints.mat", lambda: every(read_lsp(folder)))


def npz(folder: Path) -> Kind:
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), face(0)[0])
    np.savez(folder / "faces.npz", image=np.array(["a.png"]), landmarks=face(0)[1][None])
    return Kind(folder / "faces.npz", lambda: every(read_npz(folder / "faces.npz", 68)))


def arrays(folder: Path) -> Kind:
    folder.mkdir()
    np.savez_compressed(folder / "model.npz", mean=np.random.default_rng(0).random((200, 3)), names=np.array(["a"]))
    return Kind(folder / "model.npz", lambda: read_arrays(folder / "model.npz"))


def boxes_npy(folder: Path) -> Kind:
    folder.mkdir()
    np.save(folder / "boxes.npy", np.random.default_rng(0).random((9, 4)))
    return Kind(folder / "boxes.npy", lambda: read_boxes(folder / "boxes.npy"))


def boxes_csv(folder: Path) -> Kind:
    folder.mkdir()
    (folder / "boxes.csv").write_text("image,left,top,right,bottom\n" + "a.png,1,2,30,40\n" * 5)
    return Kind(folder / "boxes.csv", lambda: read_boxes_csv(folder / "boxes.csv"))


def mesh(folder: Path) -> Kind:
    folder.mkdir()
    points = "".join(f"v {x} {x + 1} {x / 3:.3f}\n" for x in range(40))
    (folder / "mesh.obj").write_text(points + "f 1/1 2/2 3/3\nf 4 5 6 7\n" * 9)
    return Kind(folder / "mesh.obj", lambda: read_obj(folder / "mesh.obj"))


def indices(folder: Path) -> Kind:
    folder.mkdir()
    (folder / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": list(range(68))}))
    return Kind(folder / "vertex_indices.json", lambda: read_vertex_indices(folder / "vertex_indices.json"))


def config(folder: Path) -> Kind:
    folder.mkdir()
    shutil.copy(shipped_folder() / "config.json", folder)
    return Kind(folder / "config.json", lambda: load_config(folder))


def parameters_json(folder: Path) -> Kind:
    shutil.copytree(shipped_folder(), folder)
    return Kind(folder / "parameters.json", lambda: load_model(folder) and None)


def parameters(folder: Path) -> Kind:
    shutil.copytree(shipped_folder(), folder)
    if "sha256" not in json.loads((folder / "parameters.json").read_text()):
        pytest.skip("the model inside was exported before there were checksums")
    file = max((path for path in (folder / "parameters").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    return Kind(file, lambda: load_model(folder) and None)


def calibration(folder: Path) -> Kind:
    folder.mkdir()
    held = {"weights": [1.0] * 68, "power": 1.5, "face": [-3.0, 2.0]}
    (folder / scores.CALIBRATION).write_text(json.dumps(held))
    return Kind(folder / scores.CALIBRATION, lambda: scores.read_calibration(folder, 68))


def torch(folder: Path) -> Kind:
    """An archive whose pickle holds a plain dictionary: what PyTorch writes, without tensors."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "weights.pth", "w") as archive:
        archive.writestr("weights/data.pkl", b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x05X\x01\x00\x00\x00bq\x02]u.")
        archive.writestr("weights/version", b"3\n")
    return Kind(folder / "weights.pth", lambda: torch_files.load(folder / "weights.pth"))


def poses(folder: Path) -> Kind:
    folder.mkdir()
    scipy.io.savemat(
        folder / "joints.mat", {"joints": np.random.default_rng(0).random((3, 14, 2))}, do_compression=True
    )
    (folder / "images").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(folder / "images" / f"im{number:04d}.jpg"), face(0)[0])
    return Kind(folder / "joints.mat", lambda: every(read_lsp(folder)))


KINDS = {
    "pts": pts, "jpg": picture(".jpg"), "png": picture(".png"), "webp": picture(".webp"), "tif": picture(".tif"),
    "bmp": picture(".bmp"), "txt": counted, "rct": rct, "csv": csv, "coco": coco, "imglab": imglab, "wflw": wflw,
    "cofw": cofw, "lsp": lsp, "compressed mat": poses, "npz": npz, "arrays": arrays, "boxes.npy": boxes_npy,
    "boxes.csv": boxes_csv, "obj": mesh, "indices": indices, "config": config, "parameters.json": parameters_json,
    "parameters": parameters, "calibration": calibration, "torch": torch,
}  # fmt: skip

_WORDS = (
    b"nan", b"-inf", b"1e999", b"null", b"{}", b"[]", b'"', b",", b"\n", b"\x00", b"\xff\xfe", b"99999999999999999999",
    b"-1", b"../../etc", b"<a>", b"",
)  # fmt: skip


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to three changes: cut, flipped, doubled, replaced by awkward words, or zeroed."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = max(len(changed), 1)
        start = int(rng.integers(size))
        stop = min(start + int(rng.integers(1, 1 + max(size // 8, 1))), size)
        match rng.integers(6):
            case 0:
                del changed[start:]
            case 1:
                del changed[start:stop]
            case 2:
                changed[start:start] = changed[start:stop]
            case 3 if changed:
                changed[start] ^= 1 << int(rng.integers(8))
            case 4:
                changed[start : start + int(rng.integers(0, 12))] = _WORDS[rng.integers(len(_WORDS))]
            case _:
                changed[start:stop] = bytes(stop - start)
    return bytes(changed)


def survive(name: str, folder: Path, times: int) -> None:
    kind = KINDS[name](folder)
    kind.read()
    content, rng = kind.file.read_bytes(), np.random.default_rng([SEED, *name.encode()])
    faults, rejected = [], 0
    for number in range(times):
        damaged = mutate(content, rng)
        kind.file.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind.read()
        except ValueError as error:
            rejected += 1
            if f"{kind.file.stem}." not in str(error) and kind.file.name not in str(error):
                faults.append(f"{number}: no file in {str(error)[:200]!r}")
        except Exception as error:
            faults.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
    assert not faults, f"{len(faults)} of {times}:\n" + "\n".join(faults[:8])
    assert times < 50 or rejected > times / 10  # most damage is noticed; some is none


@pytest.mark.parametrize("name", KINDS)
def test_a_few_damaged_files(name, tmp_path):
    survive(name, tmp_path / "files", 6)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files(name, tmp_path):
    survive(name, tmp_path / "files", TIMES)


@pytest.mark.fuzz
def test_pictures_never_raise():
    rng = np.random.default_rng(SEED)
    for ending in (".jpg", ".png", ".webp", ".tif", ".bmp", ".jp2", ".avif", ".gif"):
        if not cv2.haveImageWriter(f"a{ending}"):
            continue
        content = cv2.imencode(ending, face(0)[0])[1].tobytes()
        for _ in range(60):
            found = pictures.decode_image(mutate(content, rng))
            assert found is None or (found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3)


def test_mutations_change_something():
    rng = np.random.default_rng(0)
    assert sum(mutate(b"abcdefgh" * 20, rng) != b"abcdefgh" * 20 for _ in range(50)) > 45
