"""Files that declare more than they hold, or than the limit: named with the limit and how to raise it."""

import os
import subprocess
import sys
import zipfile
import zlib

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from jaxlm.data.readers.arrays import read_npy, read_npz
from jaxlm.face3d.model_files import read_arrays
from jaxlm.support import matlab
from jaxlm.support.errors import BadSample
from jaxlm.support.limits import file_limit, set_file_limit
from jaxlm.support.pictures import decode_image, why_undecodable

HOW = "jaxlm --file-limit=8 COMMAND"


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setenv("JAXLM_FILE_LIMIT", "0.001")


def header(shape: str) -> bytes:
    """A header of format 1.0 without the array."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_a_header_of_terabytes(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(header("(1000000000000,)"))
    with pytest.raises(BadSample, match=rf"a\.npy .*holds 7.45e\+03 GiB, more than the limit of 1 GiB.*{HOW}"):
        read_npy(path)
    path.write_bytes(header("(1000000,)") + bytes(80))
    with pytest.raises(BadSample, match=r"declares 8000000 bytes, and the file has 208"):
        read_npy(path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mean.npy", header("(1000000,)") + bytes(80))
    with pytest.raises(ValueError, match=r"mean\.npy in it declares more than it holds"):
        read_arrays(tmp_path / "a.npz")


def test_an_archive_that_holds_far_more_than_its_size(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("mean.npy", "w", force_zip64=True) as member,
    ):
        member.write(header("(250000000,)"))
        for _ in range(200):  # 2 GB of zeros
            member.write(bytes(10_000_000))
    assert (tmp_path / "a.npz").stat().st_size < 3e6
    for read in (read_arrays, lambda path: list(read_npz(path, 68))):
        with pytest.raises(ValueError, match=rf"a\.npz .*holds 1.86 GiB, more than the limit of 1 GiB.*{HOW}"):
            read(tmp_path / "a.npz")


def test_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(BadSample, match="would have to be unpickled"):
        read_npy(tmp_path / "a.npy")


def test_matlab_files(tmp_path, small_limit):
    scipy.io.savemat(tmp_path / "a.mat", {"big": np.zeros(1_000_000), "small": np.zeros(3)}, do_compression=True)
    with pytest.raises(BadSample, match=rf"a\.mat .*holds 7.63 MiB, more than the limit of 1.02 MiB.*{HOW}"):
        matlab.read_mat(tmp_path / "a.mat", ("big",))
    assert matlab.read_mat(tmp_path / "a.mat", ("small",))["small"].shape == (1, 3)
    with h5py.File(tmp_path / "b.mat", "w") as file:
        file.create_dataset("big", (10**7,), "f8", compression="gzip")
    with matlab.open_hdf5(tmp_path / "b.mat") as file, pytest.raises(ValueError, match="more than the limit"):
        matlab.read_dataset(file["big"])


def huge_png() -> bytes:
    """A PNG that says it has 40,000 × 40,000 pixels."""
    content = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    content[16:24] = (40000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_a_picture_of_too_many_pixels(small_limit, monkeypatch):
    assert decode_image(huge_png()) is None
    assert "has pixels for 4.47 GiB, more than the limit of 1.02 MiB" in why_undecodable(huge_png())
    picture = cv2.imencode(".png", np.zeros((1000, 1000, 3), np.uint8))[1].tobytes()
    assert decode_image(picture) is None and HOW in why_undecodable(picture)
    monkeypatch.setenv("JAXLM_FILE_LIMIT", "0.01")
    assert decode_image(picture).shape == (1000, 1000, 3)
    assert "truncated" in why_undecodable(b"no picture")


def test_the_flag_reaches_opencv_and_the_command(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((1200, 1000), np.uint8))
    code = (
        "import sys; from jaxlm.support.limits import set_file_limit; set_file_limit(sys.argv[1]); import cv2\n"
        "try: print(cv2.imread(sys.argv[2]).shape)\nexcept cv2.error as error: print(error)"
    )
    for limit, printed in (("0.0005", "CV_IO_MAX_IMAGE_PIXELS"), ("1", "(1200, 1000, 3)")):
        words = [sys.executable, "-c", code, limit, str(tmp_path / "a.png")]
        assert printed in subprocess.run(words, capture_output=True, text=True).stdout
    words = [sys.executable, "-m", "jaxlm", "--file-limit=0.001", "predict", str(tmp_path / "a.png")]
    ran = subprocess.run([*words, f"--out={tmp_path}/out"], capture_output=True, text=True)
    assert ran.returncode == 2 and "a.png has pixels for 0.00335 GiB, more than the limit" in ran.stderr
    words = [sys.executable, "-m", "jaxlm", "--file-limit=much", "models"]
    wrong = subprocess.run(words, capture_output=True, text=True)
    assert wrong.returncode != 0 and "--file-limit must be a positive number of GiB, got 'much'" in wrong.stderr


def test_the_limit_in_bytes(monkeypatch):
    for name in ("JAXLM_FILE_LIMIT", *(name for name in os.environ if name.startswith("OPENCV_IO_MAX"))):
        monkeypatch.setenv(name, "")
    assert file_limit() == 2**30
    monkeypatch.setattr(os, "environ", {})
    set_file_limit("2.5")
    assert file_limit() == round(2.5 * 2**30) and os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] == str(file_limit())
    with pytest.raises(ValueError, match="positive number"):
        set_file_limit("-1")
