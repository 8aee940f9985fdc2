from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from data_sets import face, write_csv
from ml_collections import ConfigDict

from jaxlm import schemes
from jaxlm.data import face_parameters
from jaxlm.data.augment import Augmentation, make_crop
from jaxlm.data.rendered.faces import RenderedFaces
from jaxlm.data.samples import YAW_BINS, yaw_bin
from jaxlm.data.sets import aflw, three_hundred_w_lp
from jaxlm.data.sets.aflw import AflwCrops
from jaxlm.data.sets.menpo3d import Menpo3D
from jaxlm.data.sets.own import OwnData
from jaxlm.data.sets.three_hundred_w_lp import Aflw2000, ThreeHundredWLP
from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import load_face_model
from jaxlm.face3d.morphable import landmark_model
from jaxlm.face3d.parameters import rotation_of_angles
from jaxlm.schemes import FACES68
from jaxlm.support.errors import BadSample

YAWS = (5.0, -35.0, 80.0, 29.0)


def write_3ddfa(folder, *, field="pt3d_68", size=96):
    """Pictures with 3DDFA's .mat beside them; returns the landmarks, from 1, and the fields of each."""
    folder.mkdir(parents=True, exist_ok=True)
    faces = []
    for number, yaw in enumerate(YAWS):
        image, points = face(number, size=size)
        rng = np.random.default_rng(number)
        fields = {
            "Pose_Para": np.array([[0.1, np.deg2rad(yaw), -0.2, 40.0, 50.0, -3.0, 1e-3]], np.float32),
            "Shape_Para": 1e4 * rng.normal(size=(199, 1)),
            "Exp_Para": rng.normal(size=(29, 1)),
            field: np.concatenate([points + 1, np.zeros((68, 1))], axis=1).T[: 3 if field == "pt3d_68" else 2],
        }
        cv2.imwrite(str(folder / f"image{number}.jpg"), image)
        scipy.io.savemat(folder / f"image{number}.mat", fields)
        faces.append((points, fields))
    return faces


def records(builder, split):
    builder.prepare()
    source = builder.as_data_source(split=split)
    return sorted((source[i] for i in range(len(source))), key=lambda record: record["key"])


def test_aflw2000(tmp_path):
    faces = write_3ddfa(tmp_path / "AFLW2000")
    read = records(Aflw2000(tmp_path / "AFLW2000", tmp_path / "cache", scheme="faces68"), "test")
    for record, (points, fields), yaw in zip(read, faces, YAWS, strict=True):
        np.testing.assert_allclose(record["landmarks"], points, atol=1e-4)
        np.testing.assert_allclose(record["params"][12:211], fields["Shape_Para"].ravel())
        np.testing.assert_allclose(record["params"][211:], fields["Exp_Para"].ravel())
        assert YAW_BINS[int(np.argmax(record["subsets"]))] == yaw_bin(yaw)
        assert parameters.pose(record["params"])[1][1] == pytest.approx(yaw, abs=1e-3)
    assert [yaw_bin(yaw) for yaw in YAWS] == ["yaw_0_30", "yaw_30_60", "yaw_60_90", "yaw_0_30"]


def test_pose_parameters_in_the_picture():
    """The published relation: pixels from 1, x = (f R S + t)_x and y = height + 1 − (f R S + t)_y."""
    rng = np.random.default_rng(0)
    vertices, pose = rng.normal(size=(5, 3)), np.array([0.3, -0.7, 0.2, 30.0, 45.0, 9.0, 12.0])
    params = three_hundred_w_lp.params_of_pose(pose, np.zeros(0), np.zeros(0), 100)
    projected = 12.0 * vertices @ rotation_of_angles(*np.rad2deg(pose[:3])).T + pose[3:6]
    published = np.stack([projected[:, 0], 101 - projected[:, 1]], axis=1)
    matrix = params[:12].reshape(3, 4)
    ours = parameters.picture_pixels(vertices @ matrix[:, :3].T + matrix[:, 3])[:, :2]
    np.testing.assert_allclose(ours + 1, published)


def test_reannotated_labels_replace_the_landmarks(tmp_path):
    write_3ddfa(tmp_path / "AFLW2000")
    labels = np.random.default_rng(0).uniform(20, 80, (4, 2, 68))
    np.save(tmp_path / "again.npy", labels)
    builder = Aflw2000(tmp_path / "AFLW2000", tmp_path / "cache", scheme="faces68", labels=str(tmp_path / "again.npy"))
    np.testing.assert_allclose([r["landmarks"].T for r in records(builder, "test")], labels - 1, atol=1e-4)
    np.save(tmp_path / "short.npy", labels[:3])
    short = Aflw2000(tmp_path / "AFLW2000", tmp_path / "cache", scheme="faces68", labels=str(tmp_path / "short.npy"))
    with pytest.raises(ValueError, match=r"The labels are of 3 faces where .* has 4"):
        short.prepare()
    with pytest.raises(ValueError, match=r"nothing\.npy does not exist"):
        Aflw2000(tmp_path / "AFLW2000", tmp_path, scheme="faces68", labels=str(tmp_path / "nothing.npy"))


def test_300w_lp_has_2d_landmarks(tmp_path):
    faces = write_3ddfa(tmp_path / "300W_LP" / "IBUG", field="pt2d")
    read = records(ThreeHundredWLP(tmp_path / "300W_LP", tmp_path / "cache", scheme="faces68"), "train")
    np.testing.assert_allclose([r["landmarks"] for r in read], [points for points, _ in faces], atol=1e-4)
    with pytest.raises(ValueError, match="has the scheme faces68, not 'faces98'"):
        ThreeHundredWLP(tmp_path / "300W_LP", tmp_path / "cache", scheme="faces98")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("Shape_Para", np.zeros((40, 1)), "has 7, 40 and 29 parameters of pose, shape and expression"),
        ("pt3d_68", np.zeros((3, 21)), r"the landmarks are \(3, 21\)"),
        ("Pose_Para", None, "has no field Pose_Para"),
    ],
)
def test_a_wrong_mat_is_named(tmp_path, field, value, message):
    _, fields = write_3ddfa(tmp_path)[0]
    changed = {name: array for name, array in {**fields, field: value}.items() if array is not None}
    scipy.io.savemat(tmp_path / "image0.mat", changed)
    first = next(iter(three_hundred_w_lp.read_3ddfa_folder(tmp_path)))
    assert isinstance(first, BadSample)
    with pytest.raises(BadSample, match=message):
        raise first


def test_the_catalogue_of_tfds(tmp_path):
    """Records as its builder writes them, in ArrayRecord."""
    faces = write_3ddfa(tmp_path / "files", size=450)

    class The300wLp(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        SHAPES = {"landmarks_3d": (68, 2), "pose_params": (7,), "shape_params": (199,), "exp_params": (29,)}

        def _info(self):
            tensors = {name: tfds.features.Tensor(shape=shape, dtype=np.float32) for name, shape in self.SHAPES.items()}
            image = tfds.features.Image(shape=(450, 450, 3), encoding_format="jpeg")
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": image, **tensors}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, (points, fields) in enumerate(faces):
                names = {"pose_params": "Pose_Para", "shape_params": "Shape_Para", "exp_params": "Exp_Para"}
                arrays = {ours: fields[theirs].ravel().astype(np.float32) for ours, theirs in names.items()}
                landmarks = ((points + 1) / 450).astype(np.float32)
                yield (
                    number,
                    {"image": str(tmp_path / "files" / f"image{number}.jpg"), "landmarks_3d": landmarks, **arrays},
                )

    catalogue = The300wLp(data_dir=tmp_path / "tfds", file_format="array_record")
    catalogue.download_and_prepare(download_config=tfds.download.DownloadConfig(register_checksums=False))
    read = list(three_hundred_w_lp.read_catalogue(Path(str(catalogue.data_path))))
    assert len(read) == 4
    truth = {round(float(points.mean()), 3): fields for points, fields in faces}
    for sample in read:
        fields = truth[round(float(sample.landmarks.mean()), 3)]
        expected = three_hundred_w_lp.params_of_pose(
            fields["Pose_Para"].ravel(), fields["Shape_Para"].ravel(), fields["Exp_Para"].ravel(), 450
        )
        np.testing.assert_allclose(sample.params, expected, rtol=1e-5, atol=1e-4)


def test_the_head_laid_over_3d_landmarks_gives_their_yaw():
    points = three_hundred_w_lp._head_landmarks()
    for angles in ([10.0, -70.0, 5.0], [-20.0, 40.0, 30.0]):
        turned = 3.0 * points @ rotation_of_angles(*map(np.array, angles)).T + [5.0, 6.0, 7.0]
        found = parameters.angles_of_rotation(three_hundred_w_lp._rotation_between(points, turned))
        np.testing.assert_allclose(found, angles, atol=1e-6)


def test_aflw_crops(tmp_path):
    root = tmp_path / "aflw"
    (root / "AFLW_GT_crop").mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(root / "AFLW_GT_crop" / f"{number}.jpg"), face(number, size=120)[0])
    (root / "AFLW_GT_crop.list").write_text("0.jpg\n1.jpg\n2.jpg\n")
    points = np.random.default_rng(0).uniform(110, 290, (3, 2, 21))
    points[:, :, 4] = -1
    np.save(root / "AFLW_GT_pts21.npy", points)
    np.save(root / "AFLW_GT_crop_yaws.npy", [0.0, -45.0, 75.0])
    np.save(root / "AFLW_GT_crop_roi_box.npy", np.array([[100.0, 100.0, 300.0, 300.0]] * 3))
    read = records(AflwCrops(root, tmp_path / "cache", scheme="aflw21"), "test")
    np.testing.assert_array_equal(np.flatnonzero(read[0]["mask"] == 0), [4])
    np.testing.assert_allclose(read[1]["landmarks"][0], (points[1, :, 0] - 99.5) * 0.6 - 0.5, atol=1e-3)
    assert [int(np.argmax(record["subsets"])) for record in read] == [0, 1, 2]
    np.save(root / "AFLW_GT_crop_yaws.npy", [0.0])
    with pytest.raises(BadSample, match="points, yaws and boxes have the shapes"):
        aflw.read_aflw_crops(root)


def test_menpo3d_picks_its_68(tmp_path):
    folder = tmp_path / "menpo" / "video"
    (folder / "annot").mkdir(parents=True)
    (folder / "imgs").mkdir()
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 80, (2, 84, 3))
    for number in range(2):
        cv2.imwrite(str(folder / "imgs" / f"{number + 1:06d}.png"), face(number)[0])
        lines = "\n".join(f"{x} {y} {z}" for x, y, z in points[number])
        (folder / "annot" / f"{number + 1:06d}.pts").write_text(f"version: 1\nn_points: 84\n{{\n{lines}\n}}\n")
    chosen = np.sort(rng.permutation(84)[:68])
    (tmp_path / "indices.txt").write_text(" ".join(map(str, chosen)))
    builder = Menpo3D(tmp_path / "menpo", tmp_path / "cache", scheme="faces68", indices=str(tmp_path / "indices.txt"))
    (record,) = records(builder, "test")
    np.testing.assert_allclose(record["landmarks"], points[:, chosen, :2] - 1, atol=1e-3)
    (tmp_path / "indices.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="holds 3 numbers; expected 68"):
        Menpo3D(tmp_path / "menpo", tmp_path / "cache", scheme="faces68", indices=str(tmp_path / "indices.txt"))


# Parameters of crops, given and fitted.


def small_config(tmp_path, **morphable):
    settings = dict(
        path="head", statistics="", identity=2, expression=2, labels="given", contour="2d", max_residual=0.05
    )
    return ConfigDict(dict(data=dict(root=str(tmp_path)), morphable={**settings, **morphable}))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_parameters_of_a_crop_show_its_landmarks(flip):
    """Rotated, scaled, moved, mirrored: the parameters' vertices are where the landmarks are."""
    model = landmark_model(load_face_model("head", identity=2, expression=2))
    symmetric = model._replace(mean=(model.mean + model.mean[FACES68.flip] * jnp.array([[-1.0, 1.0, 1.0]])) / 2)
    rotation = rotation_of_angles(np.array(5.0), np.array(30.0), np.array(-10.0))
    mirror = np.diag([-1.0, 1.0, 1.0])
    shifts = np.array([50.0, -55.0, 0.0]), np.array([-50.0, -55.0, 0.0])
    params, mirrored = (
        np.concatenate([np.concatenate([0.4 * turn, shift[:, None]], axis=1).ravel(), np.zeros(4)])
        for turn, shift in zip((rotation, mirror @ rotation @ mirror), shifts, strict=True)
    )
    points = parameters.picture_pixels(np.asarray(parameters.vertices(jnp.asarray(params, jnp.float32), symmetric)))
    record = {
        "image": face(0)[0],
        "landmarks": points[:, :2],
        "mask": np.ones(68, np.uint8),
        "visibility": np.ones(68),
        "bbox": np.array([10.0, 10.0, 90.0, 90.0]),
        "params": params,
        "mirrored": mirrored,
    }
    changes = Augmentation(rotation=20.0, scale=0.2, translation=0.1, flip=flip)
    options = dict(scheme=FACES68, crop="tddfa_landmarks", size=64, normalizer_name="points_box")
    crop = make_crop(record, augmentation=changes, rng=np.random.default_rng(0), **options)
    seen = parameters.crop_pixels(np.asarray(parameters.vertices(jnp.asarray(crop["params"]), symmetric)), 64)
    np.testing.assert_allclose(seen[:, :2], crop["landmarks"], atol=0.02)
    if flip:
        del record["mirrored"]
        with pytest.raises(ValueError, match=r"set augment\.flip to 0"):
            make_crop(record, augmentation=changes, rng=np.random.default_rng(0), **options)


def test_given_parameters_keep_the_first_modes(tmp_path):
    write_3ddfa(tmp_path / "lp", field="pt2d")
    builder = ThreeHundredWLP(tmp_path / "lp", tmp_path / "cache", scheme="faces68")
    read = records(builder, "train")
    labels = face_parameters.labels_of(small_config(tmp_path), builder, read, "train")
    np.testing.assert_allclose(labels.params, [record["params"][[*range(14), 211, 212]] for record in read])
    records_with = face_parameters.LabelledRecords(read, labels, load_face_model("head", identity=2, expression=2))
    assert records_with[0]["params"].shape == (16,) and "mirrored" not in records_with[0]


def test_fitted_parameters_are_kept_and_bad_faces_left_out(tmp_path, monkeypatch, capsys):
    path = write_csv(tmp_path / "own", 6)
    rows = path.read_text().splitlines()
    cells = rows[3].split(",")
    cells[40:100] = [f"{value:.1f}" for value in np.random.default_rng(0).uniform(0, 96, 60)]
    path.write_text("\n".join([*rows[:3], ",".join(cells), *rows[4:]]) + "\n")
    config = small_config(tmp_path, labels="fitted")
    builder = OwnData(tmp_path / "own", tmp_path / "cache", scheme="faces68")
    builder.prepare()
    source = builder.as_data_source(split="train")
    labels = face_parameters.labels_of(config, builder, source, "train")
    assert len(labels.usable) == 5 and labels.params.shape == (6, 16) and labels.mirrored is not None
    output = capsys.readouterr().out
    assert "1 of 6 faces fit worse than 5 %" in output and "fitting 6 faces, once" in output
    wrapped = face_parameters.LabelledRecords(source, labels, load_face_model("head", identity=2, expression=2))
    record = wrapped[0]
    given = source[int(labels.usable[0])]
    exists = given["mask"].astype(bool)
    assert np.abs(record["landmarks"] - given["landmarks"])[exists].mean() < 2.0 and record["mask"].all()
    # A second time they are read.
    monkeypatch.setattr(face_parameters.fitting, "fit_landmarks", None)
    again = face_parameters.labels_of(config, builder, source, "train")
    np.testing.assert_array_equal(again.params, labels.params)
    # Fits to another contour are others.
    config.morphable.contour = "3d"
    with pytest.raises(TypeError):
        face_parameters.labels_of(config, builder, source, "train")


def test_rendered_faces_carry_their_parameters(tmp_path):
    """Landmarks of the jaw ("3d") are the vertices of the parameters."""
    options = dict(scheme="faces68", num_train=2, num_test=1, size=64, seed=3, contour="3d")
    read = records(RenderedFaces(tmp_path, tmp_path / "cache", **options), "train")
    model = landmark_model(load_face_model("head"))
    for record in read:
        vertices = parameters.vertices(jnp.asarray(record["params"], jnp.float32), model)
        np.testing.assert_allclose(
            parameters.picture_pixels(np.asarray(vertices))[:, :2], record["landmarks"], atol=0.02
        )


def test_aflw21_of_the_68():
    weights = schemes.from_68("aflw21")
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    assert weights.shape == (21, 68) and schemes.from_68("aflw19").shape == (19, 68)
    # A mirrored face gives mirrored points.
    from jaxlm.schemes import AFLW21

    np.testing.assert_allclose(weights[AFLW21.flip][:, FACES68.flip], weights)
    with pytest.raises(ValueError, match="do not contain those of 'faces98'"):
        schemes.from_68("faces98")
