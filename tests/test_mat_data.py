import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from data_sets import face, write_aflw, write_cofw, write_lsp

from jaxlm.data.sets.aflw import Aflw, read_aflw
from jaxlm.data.sets.cofw import Cofw
from jaxlm.data.sets.lsp import Lsp
from jaxlm.support.errors import BadSample
from jaxlm.support.matlab import read_mat


def records(builder, split):
    builder.prepare()
    source = builder.as_data_source(split=split)
    return sorted((source[i] for i in range(len(source))), key=lambda record: record["key"])


def picture(record):
    return cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("color", [False, True])
def test_cofw(tmp_path, color):
    truth = write_cofw(tmp_path / "COFW", "train", 3, color=color)
    write_cofw(tmp_path / "COFW", "test", 2, color=color)
    builder = Cofw(tmp_path / "COFW", tmp_path / "cache", scheme="cofw29")
    train = records(builder, "train")
    assert len(train) == 3 and len(records(builder, "test")) == 2
    for number, record in enumerate(train):
        np.testing.assert_allclose(record["landmarks"], truth[number], atol=1e-4)
        expected = [*truth[number].min(axis=0), *truth[number].max(axis=0)]
        np.testing.assert_allclose(record["bbox"], expected, atol=1e-4)
        np.testing.assert_array_equal(record["visibility"], np.arange(29) % 5 != 0)
        image = face(number)[0]
        np.testing.assert_array_equal(picture(record), image if color else np.repeat(image[..., :1], 3, axis=2))


def test_cofw68_takes_the_pictures_of_cofw(tmp_path):
    write_cofw(tmp_path / "COFW", "test", 2)
    folder = tmp_path / "COFW" / "COFW68_Data" / "annotations"
    folder.mkdir(parents=True)
    points = np.random.default_rng(0).uniform(20, 80, (2, 68, 2))
    for number in range(2):
        content = {"Points": points[number] + 1, "Occ": (np.arange(68) < 3).astype(np.uint8)[None]}
        scipy.io.savemat(folder / f"{number + 1}_points.mat", content)
    read = records(Cofw(tmp_path / "COFW", tmp_path / "cache", scheme="faces68"), "test")
    np.testing.assert_allclose([record["landmarks"] for record in read], points, atol=1e-4)
    assert read[0]["visibility"].sum() == 65
    np.testing.assert_array_equal(picture(read[1])[..., 0], face(1)[0][..., 0])


def test_cofw68_of_the_published_files(real_data):
    folder = real_data / "formats" / "cofw68"
    boxes = scipy.io.loadmat(folder / "cofw68_test_bboxes.mat")["bboxes"]
    for number in range(100, 110):
        points = read_mat(folder / f"{number}_points.mat", ("Points", "Occ"))["Points"]
        x, y, width, height = boxes[number - 1].astype(float)
        center = points.mean(axis=0)
        assert x < center[0] < x + width and y < center[1] < y + height


@pytest.mark.parametrize("extended", [False, True])
def test_lsp(tmp_path, extended):
    joints = write_lsp(tmp_path / "lsp", 5, extended=extended)
    builder = Lsp(tmp_path / "lsp", tmp_path / "cache", scheme="lsp14", num_train=0 if extended else 3)
    train = records(builder, "train")
    assert len(train) == (5 if extended else 3)
    expected = np.ones(14, bool)
    expected[4] = not extended
    np.testing.assert_array_equal(train[0]["mask"], expected)
    np.testing.assert_allclose(train[1]["landmarks"][expected], joints[1][expected], atol=1e-4)
    np.testing.assert_allclose(train[0]["bbox"], [-0.5, -0.5, 79.5, 79.5])
    if not extended:
        test = records(builder, "test")
        np.testing.assert_allclose(test[0]["landmarks"], joints[3], atol=1e-4)


def test_the_real_poses_are_read(real_data, tmp_path):
    builder = Lsp(real_data / "lsp", tmp_path / "cache", scheme="lsp14", heldout=0.25)
    train, held = records(builder, "train"), records(builder, "heldout")
    assert len(train) + len(held) == 400 and 60 < len(held) < 140
    masks = np.array([record["mask"] for record in train])
    assert 0.8 < masks.mean() < 0.95
    heads_above_hips = [r["landmarks"][13, 1] < r["landmarks"][2, 1] for r in train if r["mask"][[13, 2]].all()]
    assert np.mean(heads_above_hips) > 0.6


def drop_picture(root):
    (root / "images" / "im00002.jpg").unlink()


def transpose(root):
    scipy.io.savemat(root / "joints.mat", {"joints": np.zeros((5, 14, 3))})


def no_mat(root):
    (root / "joints.mat").write_bytes(b"not a MATLAB file")


def other_field(root):
    scipy.io.savemat(root / "joints.mat", {"points": np.zeros((3, 14, 5))})


def text_field(root):
    scipy.io.savemat(root / "joints.mat", {"joints": "fourteen"})


def flip_bits(root):
    scipy.io.savemat(root / "joints.mat", {"joints": np.random.default_rng(0).random((14, 3, 5))}, do_compression=True)
    content = bytearray((root / "joints.mat").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (root / "joints.mat").write_bytes(bytes(content))


def truncate_picture(root):
    path = root / "images" / "im00002.jpg"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_picture, "has 4 pictures im"),
        (transpose, r"joints is \(5, 14, 3\), where LSP has"),
        (no_mat, r"joints\.mat cannot be read as a MATLAB file"),
        (flip_bits, r"joints\.mat cannot be read as a MATLAB file"),
        (other_field, "has no field joints"),
        (text_field, "does not hold numbers"),
        (truncate_picture, r"im00002\.jpg is truncated"),
    ],
)
def test_bad_lsp(tmp_path, change, message):
    write_lsp(tmp_path / "lsp", 5, extended=True)
    change(tmp_path / "lsp")
    with pytest.raises(ValueError, match=message):
        Lsp(tmp_path / "lsp", tmp_path / "cache", scheme="lsp14").prepare()


def edit_cofw(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def drop_boxes(file):
    del file["bboxesTr"]


def fewer_columns(file):
    shapes = np.array(file["phisTr"])
    del file["phisTr"]
    file["phisTr"] = shapes[:60]


def float_picture(file):
    reference = file["IsTr"][0, 1]
    name = file[reference].name
    del file[name]
    file[name] = np.zeros((4, 4))
    file["IsTr"][0, 1] = file[name].ref


def no_reference(file):
    file["IsTr"][0, 1] = h5py.Reference()


def not_references(file):
    del file["IsTr"]
    file["IsTr"] = np.zeros((1, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_reference, "picture 2 cannot be read"),
        (not_references, "picture 1 cannot be read"),
        (drop_boxes, "has no field bboxesTr"),
        (fewer_columns, r"phisTr is \(3, 60\)"),
        (float_picture, r"picture 2 is an array \(4, 4\) of float64"),
    ],
)
def test_bad_cofw(tmp_path, change, message):
    write_cofw(tmp_path / "COFW", "train", 3)
    edit_cofw(tmp_path / "COFW" / "COFW_train.mat", change)
    with pytest.raises(BadSample, match=message):
        Cofw(tmp_path / "COFW", tmp_path / "cache", scheme="cofw29").prepare()


def test_not_an_hdf5_file(tmp_path):
    (tmp_path / "COFW_train.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(BadSample, match=r"cannot be read as a MATLAB 7\.3 \(HDF5\) file"):
        Cofw(tmp_path, tmp_path / "cache", scheme="cofw29").prepare()


def test_more_training_pictures_than_there_are(tmp_path):
    write_lsp(tmp_path / "lsp", 5, extended=False)
    with pytest.raises(ValueError, match="num_train = 1000 leaves no test set of the 5"):
        Lsp(tmp_path / "lsp", tmp_path / "cache", scheme="lsp14", num_train=1000).prepare()


@pytest.mark.parametrize(
    ("builder", "scheme", "message"),
    [
        (Cofw, "faces98", "29 landmarks"),
        (Cofw, "faces68", r"lacks COFW_test\.mat or COFW68_Data"),
        (Cofw, "cofw29", "is not COFW"),
        (Lsp, "faces68", "choose the scheme lsp14"),
        (Lsp, "lsp14", r"has no joints\.mat"),
    ],
)
def test_another_folder(tmp_path, builder, scheme, message):
    with pytest.raises(ValueError, match=message):
        builder(tmp_path, tmp_path / "cache", scheme=scheme)


def test_aflw_in_the_protocol_of_ccl(tmp_path):
    points, visible, order = write_aflw(tmp_path / "AFLW", 8)
    builder = Aflw(tmp_path / "AFLW", tmp_path / "cache", scheme="aflw19")
    found = {int(record["key"].decode().partition("#")[2]): record for record in records(builder, "train")}
    assert sorted(found) == list(range(8)) and list(builder.info.splits) == ["train"]
    for number, record in found.items():
        np.testing.assert_allclose(record["landmarks"], points[number], atol=1e-4)
        np.testing.assert_array_equal(record["visibility"], visible[number])
        np.testing.assert_allclose(
            record["bbox"], [*points[number].min(axis=0), *points[number].max(axis=0)], atol=1e-4
        )
        assert record["subsets"][0] == visible[number].all() and record["mask"].all()
        assert np.abs(picture(record).astype(float) - face(number)[0]).mean() < 5  # JPEG
    samples = read_aflw(tmp_path / "AFLW" / "AFLWinfo_release.mat", tmp_path / "AFLW" / "data" / "flickr")["train"]
    assert [sample.key.partition("#")[2] for sample in samples] == [str(number) for number in order]
    with pytest.raises(ValueError, match="aflw19"):
        Aflw(tmp_path / "AFLW", tmp_path / "cache", scheme="faces68")
    (tmp_path / "AFLW" / "AFLWinfo_release.mat").unlink()
    with pytest.raises(ValueError, match=r"lacks AFLWinfo_release\.mat"):
        Aflw(tmp_path / "AFLW", tmp_path / "cache", scheme="aflw19")


def test_a_damaged_aflw_is_a_sentence(tmp_path):
    write_aflw(tmp_path, 4)
    content = scipy.io.loadmat(tmp_path / "AFLWinfo_release.mat")
    content["bbox"] = content["bbox"][:3]
    scipy.io.savemat(tmp_path / "AFLWinfo_release.mat", {k: v for k, v in content.items() if not k.startswith("__")})
    with pytest.raises(BadSample, match=r"expected .N, 38., .N, 19., .N, 4., N, N"):
        read_aflw(tmp_path / "AFLWinfo_release.mat", tmp_path)
