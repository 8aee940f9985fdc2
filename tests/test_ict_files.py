import json

import numpy as np
import pytest

from jaxlm.face3d import ict_files
from jaxlm.face3d.ict_files import read_ict, read_obj


def write_obj(path, vertices, faces=()):
    lines = [f"v {x} {y} {z}" for x, y, z in vertices] + ["vt 0 0", "vn 0 0 1"]
    path.write_text("\n".join(lines + [f"f {' '.join(map(str, face))}" for face in faces]) + "\n")


def test_polygons_of_an_obj_file_become_triangles(tmp_path):
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5]])
    write_obj(tmp_path / "a.obj", corners, [("1/1/1", "2/1/1", "3/1/1", "4/1/1"), (1, 2, 4)])
    vertices, triangles = read_obj(tmp_path / "a.obj")
    np.testing.assert_array_equal(vertices, corners)
    np.testing.assert_array_equal(triangles, [[0, 1, 2], [0, 2, 3], [0, 1, 3]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """ICT-FaceKit in small: 5 vertices, 2 identities, 1 expression."""
    monkeypatch.setattr(ict_files, "_VERTICES", 5)
    monkeypatch.setattr(ict_files, "check_landmarks", lambda *arguments: None)
    neutral = np.arange(15.0).reshape(5, 3)
    write_obj(tmp_path / "generic_neutral_mesh.obj", neutral, [(1, 2, 3)])
    for number in range(2):
        write_obj(tmp_path / f"identity00{number}.obj", neutral + number + 1)
    write_obj(tmp_path / "jawOpen.obj", neutral * 2)
    (tmp_path / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": [0, 3]}))
    return tmp_path


def test_the_published_folder_and_one_file_say_the_same(folder):
    model = read_ict(folder)
    assert model.names == ("jawOpen",) and model.landmarks.tolist() == [0, 3]
    np.testing.assert_allclose(model.identity[1], 2.0)
    np.testing.assert_allclose(model.expression[0], model.mean)
    file = folder / "ict.npz"
    np.savez(
        file,
        mean=model.mean,
        identity=model.identity,
        expression=model.expression,
        tri=model.triangles,
        expression_names=np.array(model.names),
    )
    for ours, theirs in zip(read_ict(file), model, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_arrays_of_another_shape_are_named(folder, monkeypatch):
    model = read_ict(folder)
    good = {"mean": model.mean, "identity": model.identity, "expression": model.expression, "tri": model.triangles}
    for name, bad, message in (
        ("identity", model.identity[:, :4], r"identity is \(2, 4, 3\)"),
        ("expression", np.zeros((2, 5, 3)), r"expression is \(2, 5, 3\); it must be \(1, 5, 3\)"),
        ("tri", np.array([[0, 1, 5]]), "tri must be"),
    ):
        np.savez(folder / "ict.npz", **{**good, name: bad}, expression_names=np.array(model.names))
        with pytest.raises(ValueError, match=rf"ict\.npz: {message}"):
            read_ict(folder / "ict.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="must name 68 landmark vertices"):
        ict_files.check_landmarks(folder / "vertex_indices.json", model.landmarks, 5)


def test_mistakes_name_the_file(folder):
    (folder / "identity001.obj").write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match=r"identity001\.obj has 1 vertices where"):
        read_ict(folder)
    (folder / "identity001.obj").write_text("v 0 zero 0\n")
    with pytest.raises(ValueError, match=r"identity001\.obj, line 1 is not an OBJ line"):
        read_ict(folder)
    (folder / "generic_neutral_mesh.obj").unlink()
    with pytest.raises(ValueError, match=r"generic_neutral_mesh\.obj does not exist"):
        read_ict(folder)
    with pytest.raises(ValueError, match=r"nothing\.npz does not exist"):
        read_ict(folder / "nothing.npz")


def test_another_model_is_refused(folder):
    np.savez(folder / "other.npz", mean=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"other\.npz is not ICT-FaceKit"):
        read_ict(folder / "other.npz")
    (folder / "vertex_indices.json").write_text("{}")
    with pytest.raises(ValueError, match="has no list idx_to_landmark_verts"):
        read_ict(folder)
