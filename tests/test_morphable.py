import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from scipy.spatial.transform import Rotation

from jaxlm.face3d import morphable, parameters
from jaxlm.face3d.model_files import load_face_model
from jaxlm.support import pickles
from jaxlm.systems.tddfa import costs


@functools.lru_cache
def small_model(vertices=90, identity=6, expression=3):
    """Random shapes about a face of unit size, with statistics that are not trivial."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(vertices, 3))
    bases = [0.1 * rng.normal(size=(vertices, 3, modes)) for modes in (identity, expression)]
    count = 12 + identity + expression
    statistics = dict(param_mean=0.1 * rng.normal(size=count), param_std=rng.uniform(0.5, 2.0, size=count))
    return morphable.make_model(mean, *bases, np.arange(68), **statistics)


def random_params(count, model, seed=1):
    """In a crop's frame, with rotations in every direction."""
    rng = np.random.default_rng(seed)
    rotations = parameters.rotation_of_angles(*rng.uniform(-80, 80, (3, count)))
    shift = np.concatenate([rng.uniform(40, 80, (count, 2, 1)), np.zeros((count, 1, 1))], axis=1)
    transforms = np.concatenate([rng.uniform(10, 20, (count, 1, 1)) * rotations, shift], axis=-1)
    return np.concatenate([transforms.reshape(count, 12), rng.normal(size=(count, model.num_params - 12))], axis=1)


def in_double(model):
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)) if leaf.dtype.kind == "f" else leaf, model
    )


def pair(model, seed=2):
    target = jnp.asarray(parameters.z_score(random_params(5, model), jax.tree.map(np.asarray, model)))
    return target + 0.3 * jnp.asarray(np.random.default_rng(seed).normal(size=target.shape)), target


@pytest.mark.parametrize("squared", [True, False])
def test_fwpdc_is_wpdc(float64, squared):
    model = in_double(small_model())
    pred, target = pair(model)
    slow, fast = (loss(pred, target, model, squared_weights=squared) for loss in (costs.wpdc, costs.fwpdc))
    np.testing.assert_allclose(slow, fast, rtol=1e-10)
    assert np.ptp(np.asarray(fast)) > 0.1
    single = jax.tree.map(
        lambda leaf: leaf.astype("float32") if leaf.dtype.kind == "f" else leaf, (model, pred, target)
    )
    np.testing.assert_allclose(costs.fwpdc(single[1], single[2], single[0], squared_weights=squared), slow, rtol=1e-5)


def test_wpdc_by_hand(float64):
    """Eqs. (6) and (7) with NumPy loops."""
    model = in_double(small_model())
    pred, target = pair(model)
    arrays = jax.tree.map(np.asarray, model)

    def vertices(z):
        p = z * arrays.param_std + arrays.param_mean
        matrix = p[:12].reshape(3, 4).copy()
        matrix[2, 3] = 0.0
        shape = arrays.mean + arrays.identity @ p[12:18] + arrays.expression @ p[18:]
        return shape @ matrix[:, :3].T + matrix[:, 3]

    for row in range(3):
        p, g = np.asarray(pred[row]), np.asarray(target[row])
        weights = np.zeros(len(p))
        for i in range(len(p)):
            degraded = g.copy()
            degraded[i] = p[i]
            weights[i] = np.sqrt(np.square(vertices(degraded) - vertices(g)).sum())
        weights /= weights.max()
        np.testing.assert_allclose(costs.wpdc(pred, target, model)[row], np.square(weights * (p - g)).sum(), rtol=1e-9)
        np.testing.assert_allclose(
            costs.vdc(pred, target, model)[row], np.square(vertices(p) - vertices(g)).sum(), rtol=1e-9
        )
        gradient = jax.grad(lambda z, row=row: costs.fwpdc(z, target, model)[row])(pred)[row]
        np.testing.assert_allclose(gradient, 2 * weights**2 * (p - g), rtol=1e-8, atol=1e-12)


def test_losses_are_zero_without_nan_at_the_truth(float64):
    model = in_double(small_model())
    _, target = pair(model)
    for loss in (costs.wpdc, costs.fwpdc, costs.vdc):
        value, gradient = jax.value_and_grad(lambda z, loss=loss: loss(z, target, model).sum())(target)
        assert value < 1e-20 and np.abs(gradient).max() < 1e-8


def test_depth_of_the_translation_does_not_count(float64):
    model = in_double(small_model())
    _, target = pair(model)
    moved = target.at[:, 11].add(3.0)
    for loss in (costs.wpdc, costs.fwpdc, costs.vdc):
        assert np.abs(loss(moved, target, model)).max() < 1e-20


def test_angles_against_scipy():
    """300W-LP's R_x, R_y and R_z turn the other way round than SciPy's."""
    angles = np.random.default_rng(0).uniform([-170, -89, -170], [170, 89, 170], (50, 3))
    ours = parameters.rotation_of_angles(*angles.T)
    theirs = np.stack([Rotation.from_euler("XYZ", -one, degrees=True).as_matrix() for one in angles])
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(parameters.angles_of_rotation(ours), angles, atol=1e-9)


@pytest.mark.parametrize("yaw", [90.0, -90.0])
def test_gimbal_lock_keeps_the_rotation(yaw):
    rotation = parameters.rotation_of_angles(np.array(20.0), np.array(yaw), np.array(35.0))
    pitch, found, roll = parameters.angles_of_rotation(rotation)
    assert roll == 0.0 and found == pytest.approx(yaw, abs=1e-4)
    np.testing.assert_allclose(parameters.rotation_of_angles(pitch, found, roll), rotation, atol=1e-6)


def test_directions_of_the_angles():
    """Where the nose (towards the viewer) and the crown go on the screen."""
    nose, crown = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
    zero, few = np.array(0.0), np.array(20.0)
    assert (parameters.rotation_of_angles(zero, few, zero) @ nose)[0] < -0.3  # to the viewer's left
    assert (parameters.rotation_of_angles(few, zero, zero) @ nose)[1] > 0.3  # the chin is lifted
    assert (parameters.rotation_of_angles(zero, zero, few) @ crown)[0] > 0.3  # clockwise


def test_pose_of_parameters():
    model = small_model()
    angles, scale = np.array([12.0, -40.0, 7.0]), 14.0
    rotation = parameters.rotation_of_angles(*angles)
    params = np.zeros(model.num_params)
    params[:12] = np.concatenate([scale * rotation, [[3.0], [4.0], [5.0]]], axis=1).ravel()
    found_scale, found = parameters.pose(params)
    assert found_scale == pytest.approx(scale)
    np.testing.assert_allclose(found, angles, atol=1e-9)
    np.testing.assert_allclose(parameters.pose(jnp.asarray(params, jnp.float32))[1], angles, atol=1e-3)


def test_crop_moves_what_is_seen():
    """Pixels of the picture, mapped by the crop's transform, are the pixels of the moved parameters."""
    model = small_model()
    params = random_params(4, model)
    transform = np.array([[0.8, -0.3, 3.0], [0.3, 0.8, -9.0]])
    seen = parameters.picture_pixels(np.asarray(parameters.vertices(jnp.asarray(params, jnp.float32), model)))
    cropped = parameters.to_crop(params, transform, 120)
    inside = parameters.crop_pixels(np.asarray(parameters.vertices(jnp.asarray(cropped, jnp.float32), model)), 120)
    np.testing.assert_allclose(inside[..., :2], seen[..., :2] @ transform[:, :2].T + transform[:, 2], atol=1e-3)
    # Depth keeps its proportion.
    np.testing.assert_allclose(inside[..., 2], seen[..., 2] * np.hypot(0.8, 0.3), atol=1e-3)
    np.testing.assert_allclose(parameters.to_picture(cropped, transform, 120), params, atol=1e-9)


def test_released_frame():
    """y' = 121 − y in pixels of the crop that count from 1."""
    np.testing.assert_allclose(parameters.crop_pixels(np.array([[1.0, 1.0, 5.0]]), 120), [[0.0, 119.0, 5.0]])


def test_z_score_round_trip():
    model = small_model()
    params = jnp.asarray(random_params(3, model), jnp.float32)
    np.testing.assert_allclose(parameters.undo_z_score(parameters.z_score(params, model), model), params, rtol=1e-5)


def test_with_modes_keeps_the_first():
    model = small_model()
    fewer = morphable.with_modes(model, 4, 2)
    assert fewer.num_params == 18
    np.testing.assert_array_equal(fewer.param_std, model.param_std[np.r_[0:16, 18:20]])
    np.testing.assert_array_equal(fewer.expression, model.expression[..., :2])
    with pytest.raises(ValueError, match="6 identity and 3 expression modes: 7 and 3"):
        morphable.with_modes(model, 7, 3)


def test_selected_vertices_are_the_same():
    model = small_model()
    params = jnp.asarray(random_params(2, model), jnp.float32)
    chosen = jnp.array([3, 80, 11])
    part = parameters.vertices(params, morphable.select_vertices(model, chosen))
    np.testing.assert_allclose(part, parameters.vertices(params, model)[:, chosen], rtol=1e-5, atol=1e-4)


def test_landmarks_alone_are_triangulated_from_outside():
    model = small_model(vertices=68)
    corners = np.asarray(model.mean)[np.asarray(model.triangles)][..., :2]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    assert (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0] > 0).all()


# Files.


def arrays(vertices=70):
    rng = np.random.default_rng(0)
    return {
        "mean": rng.normal(size=(vertices, 3)).astype(np.float32),
        "identity": rng.normal(size=(vertices, 3, 8)).astype(np.float32),
        "expression": rng.normal(size=(vertices, 3, 5)).astype(np.float32),
        "triangles": rng.integers(0, vertices, (20, 3)),
        "landmarks": np.arange(1, 69),
    }


def test_npz_with_modes_first_or_last(tmp_path):
    content = arrays()
    np.savez(tmp_path / "last.npz", **content)
    np.savez(tmp_path / "first.npz", **{**content, "identity": np.moveaxis(content["identity"], -1, 0)})
    last, first = (
        load_face_model(str(tmp_path / f"{name}.npz"), identity=8, expression=5) for name in ("last", "first")
    )
    np.testing.assert_array_equal(last.identity, first.identity)
    assert last.num_params == 25
    assert np.asarray(last.landmarks).tolist() == list(range(1, 69))


def test_3ddfa_pickle(tmp_path):
    content = arrays()
    flat = {
        "u": content["mean"].reshape(-1, 1),
        "w_shp": content["identity"].reshape(-1, 8),
        "w_exp": content["expression"].reshape(-1, 5),
        "keypoints": (3 * content["landmarks"][:, None] + np.arange(3)).ravel(),
    }
    (tmp_path / "bfm_noneck_v3.pkl").write_bytes(pickle.dumps(flat))
    with pytest.raises(ValueError, match=r"no tri\.pkl beside it"):
        load_face_model(str(tmp_path / "bfm_noneck_v3.pkl"), identity=8, expression=5)
    (tmp_path / "tri.pkl").write_bytes(pickle.dumps(content["triangles"].T, protocol=2))
    model = load_face_model(str(tmp_path / "bfm_noneck_v3.pkl"), identity=8, expression=5)
    np.testing.assert_array_equal(model.identity, content["identity"])
    np.testing.assert_array_equal(model.landmarks, content["landmarks"])
    np.testing.assert_array_equal(np.sort(model.triangles), np.sort(content["triangles"]))


def test_bfm_2009(tmp_path):
    content = arrays()
    spread = np.linspace(1, 2, 8)
    scipy.io.savemat(
        tmp_path / "01_MorphableModel.mat",
        {
            "shapeMU": content["mean"].reshape(-1, 1),
            "shapePC": content["identity"].reshape(-1, 8),
            "shapeEV": spread[:, None],
            "tl": content["triangles"] + 1,
        },
    )
    path = str(tmp_path / "01_MorphableModel.mat")
    with pytest.raises(ValueError, match=r"needs landmarks\.txt beside it"):
        load_face_model(path, identity=8, expression=5)
    (tmp_path / "landmarks.txt").write_text("\n".join(map(str, content["landmarks"])))
    np.savez(tmp_path / "expression.npz", expression=content["expression"])
    model = load_face_model(path, identity=8, expression=5)
    np.testing.assert_allclose(model.identity, content["identity"] * spread, rtol=1e-6)
    np.testing.assert_array_equal(np.sort(model.triangles), np.sort(content["triangles"]))


def test_statistics(tmp_path):
    np.savez(tmp_path / "model.npz", **arrays())
    good = {"mean": np.arange(25, dtype=np.float32), "std": np.ones(25, np.float32)}
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(good))
    load = functools.partial(load_face_model, str(tmp_path / "model.npz"), identity=8, expression=5)
    np.testing.assert_array_equal(load(statistics=str(tmp_path / "good.pkl")).param_mean, np.arange(25))
    np.savez(tmp_path / "short.npz", mean=np.zeros(3), std=np.ones(3))
    with pytest.raises(ValueError, match=r"short\.npz holds the statistics of 3 parameters where the model has 25"):
        load(statistics=str(tmp_path / "short.npz"))


class _Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("content", [{"mean": _Evil()}, [1, 2], {"mean": np.array(["text"])}])
def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path, capsys, content):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"bad\.pkl"):
        pickles.load_arrays(tmp_path / "bad.pkl")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": np.zeros((3, 3))}, r"identity is \(3, 3\); with 70 vertices it must be"),
        ({"landmarks": np.arange(60)}, "must name 68 landmark vertices between 0 and 69"),
        ({"landmarks": np.arange(3, 71)}, "must name 68 landmark vertices between 0 and 69"),
        ({"mean": None}, "has no array mean"),
        ({"landmarks": None}, "no array landmarks that names 68"),
    ],
)
def test_a_wrong_npz_is_named(tmp_path, change, message):
    content = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    np.savez(tmp_path / "model.npz", **content)
    with pytest.raises(ValueError, match=message):
        load_face_model(str(tmp_path / "model.npz"), identity=8, expression=5)


def test_a_missing_or_broken_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.npz does not exist: set morphable\.path"):
        load_face_model(str(tmp_path / "nothing.npz"))
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ValueError, match=r"half\.npz cannot be read as arrays"):
        load_face_model(str(tmp_path / "half.npz"))
    with pytest.raises(ValueError, match="must be 'head' or a file"):
        load_face_model(str(tmp_path / "model.obj"))


def test_ict_facekit(real_data):
    model = load_face_model(str(real_data / "ict_facekit" / "ict_facekit.npz"), identity=100, expression=53)
    assert model.mean.shape == (26719, 3) and model.num_params == 165
    assert 5 < float(model.millimetres) < 15  # centimetre-like
