import functools
import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import geometry
from jaxlm.commands import reconstruct
from jaxlm.data.rendered.faces import photographs
from jaxlm.face3d import mesh_files, parameters, views
from jaxlm.face3d.model_files import load_face_model
from jaxlm.face3d.morphable import with_modes
from jaxlm.predict import faces3d
from jaxlm.schemes import FACES68_OF_FACES98


@functools.lru_cache
def renderer():
    return views.FaceRenderer(with_modes(load_face_model("head"), 2, 2))


def face(yaw=0.0):
    """A head in the middle of a picture of 120 × 160."""
    turn = parameters.rotation_of_angles(np.array(0.0), np.array(yaw), np.array(0.0))
    transform = np.concatenate([0.4 * turn, [[80.0], [-50.0], [0.0]]], axis=1)
    return np.concatenate([transform.ravel(), np.zeros(4)])


def test_views_are_where_the_face_is():
    image = np.full((120, 160, 3), 90, np.uint8)
    seen = renderer().views(image, face())
    points = parameters.picture_pixels(views.vertices_of(face(), renderer().model))
    covered = seen.depth > 0
    assert covered[50, 80] and not covered[5, 5] and (seen.mesh[5, 5] == 90).all() and (seen.mesh[50, 80] != 90).any()
    columns = np.nonzero(covered)[1]
    np.testing.assert_allclose([columns.min(), columns.max()], [points[:, 0].min(), points[:, 0].max()], atol=2.5)
    # The nose is nearest, and its colour says where it is on the mean face.
    nose = points[np.asarray(renderer().model.landmarks)[30]]
    column, row = np.round(nose[:2]).astype(int)
    assert seen.depth[row, column] == seen.depth.max()
    mean = np.asarray(renderer().model.mean)
    code = (mean - mean.min(axis=0)) / np.ptp(mean, axis=0)
    np.testing.assert_allclose(
        seen.pncc[row, column] / 255, code[np.asarray(renderer().model.landmarks)[30]], atol=0.05
    )


def test_texture_does_not_depend_on_the_pose():
    """A picture painted by the texture coordinates unrolls into itself, from two sides."""
    model = renderer().model
    for yaw in (0.0, 25.0):
        points = parameters.picture_pixels(views.vertices_of(face(yaw), model))
        image = np.zeros((120, 160, 3), np.uint8)
        order = np.argsort(points[:, 2])  # the nearest last
        for vertex in order:
            x, y = np.round(points[vertex, :2]).astype(int)
            color = (255 * np.append(np.asarray(model.uv)[vertex], 0.5)).tolist()
            cv2.circle(image, (int(x), int(y)), 1, color, -1)
        texture = renderer().texture(image, face(yaw), side=64) / 255
        u, v = np.asarray(model.uv)[np.asarray(model.landmarks)[30]]
        around = texture[int(v * 64) - 2 : int(v * 64) + 3, int(u * 64) - 2 : int(u * 64) + 3]
        around = around[around[..., 2] > 0.25]  # what is turned away is black
        assert len(around) > 12
        # Gaps between the painted vertices darken all channels alike.
        np.testing.assert_allclose(np.median(around[:, :2] / (2 * around[:, 2:]), axis=0), [u, v], atol=0.04)


def test_obj_and_ply_hold_the_mesh(tmp_path):
    vertices, triangles = np.arange(12.0).reshape(4, 3), np.array([[0, 1, 2], [1, 3, 2]])
    uv = np.array([[0.0, 0.0], [1.0, 0.25], [0.5, 1.0], [0.0, 1.0]])
    mesh_files.write_obj(tmp_path / "a.obj", vertices, triangles, uv=uv, texture="a.png")
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert lines[0] == "mtllib a.mtl" and "v 3 4 5" in lines and "vt 1.000000 0.750000" in lines
    assert lines[-2:] == ["f 1/1 2/2 3/3", "f 2/2 4/4 3/3"] and "map_Kd a.png" in (tmp_path / "a.mtl").read_text()
    colors = np.arange(12, dtype=np.uint8).reshape(4, 3)
    mesh_files.write_ply(tmp_path / "a.ply", vertices, triangles, colors)
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 4" in header and b"element face 2" in header
    points = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)], 4)
    np.testing.assert_array_equal(points["xyz"], vertices)
    np.testing.assert_array_equal(points["rgb"], colors)
    faces = np.frombuffer(body, [("n", "u1"), ("corners", "<i4", 3)], 2, offset=4 * 15)
    np.testing.assert_array_equal(faces["corners"], triangles)


def test_the_nose_points_where_the_face_looks():
    image = np.zeros((120, 160, 3), np.uint8)
    drawn = views.draw_pose(image, face(yaw=60.0), renderer().model)
    blue = np.argwhere((drawn == (66, 135, 245)).all(axis=-1))
    assert blue[:, 1].min() < 65  # to the viewer's left
    assert views.describe_pose(face(yaw=60.0))["yaw"] == pytest.approx(60.0)


class _Fixed(faces3d.Reconstructor):
    """Always the same face, so that no network is needed."""

    def __init__(self):
        self.model, self.renderer = renderer().model, renderer()
        whole = load_face_model("head")
        self.model = self.renderer.model._replace(landmarks=whole.landmarks)
        self.regress, self._rounds = lambda image, box: face(20.0), 1
        self.detect = lambda image: np.zeros((0, 4))


def test_without_a_model_the_head_is_fitted_to_landmarks(tmp_path):
    """A rendered face whose head is the one that is fitted: the pose comes back, and the landmarks are those found."""
    (shown,) = photographs(seed=11, start=4, count=1, size=200)
    cv2.imwrite(str(tmp_path / "me.png"), shown["image"][..., ::-1])
    box = geometry.box_of_points(shown["landmarks"])
    reconstruct.main(
        reconstruct.Options(
            files=(str(tmp_path / "me.png"),), out=str(tmp_path / "out"), box=tuple(f"{value:.1f}" for value in box)
        )
    )
    (entry,) = json.loads((tmp_path / "out" / "me.json").read_text())
    found, wanted = np.array(entry["landmarks"])[:, :2], shown["landmarks"][FACES68_OF_FACES98]
    apart = np.linalg.norm(wanted[36] - wanted[45])
    assert np.linalg.norm(found - wanted, axis=1)[17:].mean() < 0.08 * apart
    assert abs(entry["pose"]["yaw"] - views.describe_pose(shown["params"])["yaw"]) < 12


def test_everything_about_a_picture_is_written(tmp_path):
    cv2.imwrite(str(tmp_path / "me.png"), np.full((120, 160, 3), 90, np.uint8))
    assert _Fixed().write_picture(tmp_path / "me.png", tmp_path / "out", np.array([[60.0, 30.0, 100.0, 90.0]])) == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {f"me_{kind}.png" for kind in ("mesh", "depth", "pncc", "pose", "landmarks")}
    assert names == pictures | {"me.json", "me_0.obj", "me_0.mtl", "me_0.ply", "me_0_texture.png"}
    (entry,) = json.loads((tmp_path / "out" / "me.json").read_text())
    assert entry["pose"]["yaw"] == pytest.approx(20.0) and np.shape(entry["landmarks"]) == (68, 3)
    np.testing.assert_allclose(jnp.asarray(entry["params"]), face(20.0), atol=1e-5)
    with pytest.raises(ValueError, match="no face was found; name its box"):
        _Fixed().write_picture(tmp_path / "me.png", tmp_path / "out")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png is truncated or not a picture"):
        _Fixed().write_picture(tmp_path / "text.png", tmp_path / "out")
