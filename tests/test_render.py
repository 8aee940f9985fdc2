import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.data.rendered import heads, objects
from jaxlm.data.rendered.faces import RENDERER, photographs, render_faces, sample_scene
from jaxlm.face3d import head, morphable, rasterizer
from jaxlm.schemes import FACES98


def dense_rasterize(vertices, triangles, height, width):
    """Every pixel against every triangle, in float64."""
    depth = np.full((height, width), -np.inf)
    found = np.full((height, width), -1)
    ys, xs = np.mgrid[:height, :width].astype(float)
    for number, corners in enumerate(vertices[triangles].astype(float)):
        a, b, c = corners[:, :2]
        area = np.cross(b - a, c - a)
        if abs(area) < 1e-9:
            continue
        p = np.stack([xs, ys], axis=-1)
        v = ((p[..., 0] - a[0]) * (c - a)[1] - (p[..., 1] - a[1]) * (c - a)[0]) / area
        w = ((b - a)[0] * (p[..., 1] - a[1]) - (b - a)[1] * (p[..., 0] - a[0])) / area
        inside = (v >= 0) & (w >= 0) & (v + w <= 1)
        z = corners[0, 2] + v * (corners[1, 2] - corners[0, 2]) + w * (corners[2, 2] - corners[0, 2])
        nearer = inside & (z > depth)
        depth[nearer], found[nearer] = z[nearer], number
    return found, depth


@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")
def test_rasterizer_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    centers = rng.uniform(-2, 34, size=(60, 1, 2))
    corners = np.concatenate(
        [centers + rng.uniform(-5, 5, size=(60, 3, 2)), rng.uniform(0, 9, size=(60, 3, 1))], axis=2
    )
    vertices = corners.reshape(-1, 3).astype(np.float32)
    triangles = np.arange(180, dtype=np.int32).reshape(60, 3)
    fragments = rasterizer.rasterize(
        jnp.asarray(vertices), jnp.asarray(triangles), shape=(24, 32), patches=((20, 11), (40, 12))
    )
    found, depth = dense_rasterize(vertices, triangles, 24, 32)
    assert (found >= 0).mean() > 0.2
    assert (fragments.triangle == found).mean() > 0.995  # edges and near ties may fall either way
    agree = np.asarray(fragments.triangle) == found
    np.testing.assert_allclose(np.asarray(fragments.depth)[agree], depth[agree], rtol=1e-4, atol=1e-4)


def test_interpolation_is_linear_and_normals_point_outwards():
    vertices = jnp.array([[2.0, 2.0, 0.0], [20.0, 3.0, 5.0], [4.0, 18.0, 1.0]])
    triangles = jnp.array([[0, 1, 2]])
    fragments = rasterizer.rasterize(vertices, triangles, shape=(24, 24), patches=((1, 20),))
    position = rasterizer.interpolate(fragments, triangles, vertices)
    rows, columns = np.nonzero(np.asarray(fragments.triangle) == 0)
    np.testing.assert_allclose(position[rows, columns, 0], columns, atol=1e-4)
    np.testing.assert_allclose(position[rows, columns, 1], rows, atol=1e-4)
    model = head.head()
    normals = rasterizer.vertex_normals(model.mean, model.triangles)
    nose = model.landmarks[54]
    assert normals[nose, 2] > 0.5 and normals[model.landmarks[0], 0] < -0.5


def test_texture_samples_pixel_centres():
    texture = jnp.arange(12.0).reshape(3, 4, 1)
    uv = jnp.array([[(2 + 0.5) / 4, (1 + 0.5) / 3], [0.0, 0.0], [(1 + 1.0) / 4, 0.5 / 3]])
    np.testing.assert_allclose(rasterizer.sample_texture(texture, uv)[:, 0], [6.0, 0.0, 1.5], atol=1e-5)


def test_groups_must_cover_all_triangles():
    with pytest.raises(ValueError, match="do not add up to 1"):
        rasterizer.rasterize(jnp.zeros((3, 3)), jnp.array([[0, 1, 2]]), shape=(4, 4), patches=((2, 4),))


def test_empty_groups_and_a_triangle_without_depth():
    corners = jnp.array([[1.0, 1.0, 0.0], [9.0, 1.0, 0.0], [1.0, 9.0, 0.0]])
    drawn = rasterizer.rasterize(corners, jnp.array([[0, 1, 2]]), shape=(12, 12), patches=((0, 3), (1, 10)))
    assert drawn.triangle[2, 2] == 0 and drawn.triangle[11, 11] == -1 and drawn.depth[2, 2] == 0.0


def test_rotation_conventions():
    zero, quarter = jnp.asarray(0.0), jnp.asarray(np.pi / 2)
    forward, up = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 0.0])
    np.testing.assert_allclose(morphable.rotation(quarter, zero, zero) @ forward, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(morphable.rotation(zero, quarter, zero) @ forward, [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(morphable.rotation(zero, zero, quarter) @ up, [-1, 0, 0], atol=1e-6)
    pixels = morphable.project(jnp.array([[1.0, 2.0, 3.0]]), jnp.eye(3), jnp.asarray(10.0), jnp.array([5.0, 6.0]))
    np.testing.assert_allclose(pixels, [[15.0, -14.0, 30.0]])


def test_the_head_has_its_landmarks_where_they_were_placed():
    model = head.head()
    assert model.identity.shape[2] == 40 and model.expression.shape[2] == len(head.EXPRESSIONS) == 10
    assert len(set(np.asarray(model.landmarks).tolist())) == 98
    offset = np.asarray(model.mean)[np.asarray(model.landmarks)] - head.landmarks98()
    assert np.abs(offset).max() < 2.5  # millimetres, of a head of 277
    flip = FACES98.flip
    mirrored = np.asarray(model.mean)[np.asarray(model.landmarks)][flip] * [-1, 1, 1]
    np.testing.assert_allclose(mirrored, np.asarray(model.mean)[np.asarray(model.landmarks)], atol=0.6)


def test_modes_do_what_they_are_called():
    model = head.head()
    where = np.asarray(model.landmarks)

    def landmarks(name, strength=1.0):
        expression = jnp.zeros(10).at[head.EXPRESSIONS.index(name)].set(strength)
        return np.asarray(morphable.shape(model, jnp.zeros(40), expression))[where]

    neutral = landmarks("smile", 0.0)
    gap = lambda p: p[90, 1] - p[94, 1]  # noqa: E731 between the inner lips
    assert gap(landmarks("mouth_open")) > gap(neutral) + 18
    assert -0.2 <= gap(landmarks("mouth_closed")) < 0.4 * gap(neutral)
    lids = lambda p: p[62, 1] - p[66, 1]  # noqa: E731
    assert 0 <= lids(landmarks("eyes_closed")) < 0.25 * lids(neutral)
    assert landmarks("smile")[76, 1] > neutral[76, 1] + 3 and landmarks("smile")[82, 0] > neutral[82, 0] + 3
    assert landmarks("brows_up")[35, 1] > neutral[35, 1] + 4


def test_rendered_faces_are_reproducible_and_exact():
    faces = list(photographs(5, 14, 4, 96))  # of two batches
    again = list(photographs(5, 16, 1, 96))
    np.testing.assert_array_equal(faces[2]["image"], again[0]["image"])
    assert np.abs(faces[0]["image"].astype(int) - faces[1]["image"]).mean() > 5
    for one in faces:
        assert one["image"].shape == (96, 96, 3) and one["landmarks"].shape == (98, 2)
        assert one["visibility"].mean() > 0.3 and np.isfinite(one["landmarks"]).all()


def test_the_pictures_are_those_of_their_version():
    """Mean grey level and mean landmark of faces that show every kind of thing in front of them."""
    faces = list(photographs(5, 0, 32, 64))
    found = np.array([[face["image"].mean(), *face["landmarks"].mean(axis=0)] for face in faces])
    known = {
        5: [
            110.6,
            33.9,
            29.2,
            79.4,
            36.9,
            29.2,
            77.0,
            30.3,
            30.1,
            101.1,
            31.7,
            33.3,
            125.6,
            27.4,
            32.6,
            114.4,
            24.8,
            28.4,
            173.5,
            29.3,
            28.4,
            75.5,
            32.9,
            32.0,
            104.1,
            31.3,
            29.2,
            100.4,
            35.8,
            30.5,
            119.3,
            30.7,
            29.0,
            35.5,
            34.8,
            33.0,
            125.6,
            34.0,
            28.6,
            106.1,
            28.9,
            30.8,
            111.1,
            37.3,
            30.5,
            54.6,
            34.0,
            30.7,
            140.9,
            27.4,
            35.3,
            125.3,
            26.9,
            30.1,
            43.6,
            34.9,
            30.7,
            87.4,
            35.1,
            30.8,
            133.9,
            35.0,
            30.3,
            158.9,
            30.7,
            28.4,
            39.3,
            35.4,
            32.6,
            28.9,
            32.7,
            33.2,
            51.1,
            34.4,
            29.6,
            100.0,
            26.8,
            34.1,
            113.3,
            34.0,
            30.2,
            108.0,
            28.1,
            29.7,
            71.3,
            30.7,
            33.7,
            96.7,
            35.3,
            33.2,
            67.5,
            34.9,
            33.2,
            137.5,
            35.4,
            34.3,
        ]
    }
    message = "The pictures have changed: raise RENDERER and add the new means here."
    np.testing.assert_allclose(found, np.reshape(known[RENDERER], (32, 3)), atol=0.15, err_msg=message)


@pytest.mark.slow
def test_windows_lose_no_pixel(monkeypatch):
    rngs = [np.random.default_rng([9, i]) for i in range(6)]
    scenes = [sample_scene(rng, 160)._replace(scale=np.float32(0.8)) for rng in rngs]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *scenes)
    textures = np.zeros((6, 8, 8, 3), np.float32)
    quick = render_faces(stacked, textures, 160)
    monkeypatch.setattr(heads.Head, "patches", lambda head, scale: ((len(head.sizes), 40),))
    safe = render_faces(stacked, textures, 160)
    assert safe.alpha.sum() > 40000
    np.testing.assert_array_equal(quick.alpha, safe.alpha)


def test_hidden_contour_slides_onto_the_outline():
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 160)._replace(
        angles=np.array([0.8, 0.0, 0.0], np.float32),
        identity=np.zeros(40, np.float32),
        expression=np.zeros(10, np.float32),
    )
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], scene)
    faces = render_faces(stacked, np.zeros((1, 8, 8, 3), np.float32), 160)
    alpha, contour = np.asarray(faces.alpha[0]), np.asarray(faces.landmarks[0, 22:31])
    for x, y in contour:  # the far side lies within two pixels of the edge of the head
        row = alpha[round(y)]
        edge = np.flatnonzero(row).max()
        assert abs(edge - x) < 2.5


def turned_contours(yaws) -> np.ndarray:
    """Contours (N, 33, 2) of one face at several yaws in radians."""
    scene = sample_scene(np.random.default_rng(0), 160)
    angles = [np.array([yaw, 0.0, 0.0], np.float32) for yaw in yaws]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[scene._replace(angles=each) for each in angles])
    textures = np.zeros((len(angles), 8, 8, 3), np.float32)
    return np.asarray(render_faces(stacked, textures, 160).landmarks[:, :33])


def test_landmarks_move_without_jumps_while_a_head_turns():
    steps = np.diff(turned_contours(np.linspace(-0.5, 0.5, 51)), axis=0)
    assert np.linalg.norm(steps, axis=-1).max() < 2.5  # pixels for a turn of 1.1 degrees


def test_hidden_contour_points_are_spread_evenly():
    (contour,) = turned_contours([0.6])
    steps = np.linalg.norm(np.diff(contour, axis=0), axis=1)
    assert steps[17:].std() < 0.06 * steps[17:].mean()  # chords of a polyline
    assert steps[:16].std() > 0.06 * steps[:16].mean()


def test_objects_cover_the_pixels_that_they_say():
    landmarks = next(photographs(5, 3, 1, 96))["landmarks"]
    image = np.full((96, 96, 3), 128, np.uint8)
    hidden = 0
    for seed in range(40):
        drawn, covered = objects.paint_objects(image, np.random.default_rng(seed), landmarks, np.array([90, 60, 40]))
        again, _ = objects.paint_objects(image, np.random.default_rng(seed), landmarks, np.array([90, 60, 40]))
        np.testing.assert_array_equal(drawn, again)
        changed = np.abs(drawn.astype(int) - image).max(axis=-1) > 0
        assert covered.dtype == bool and (changed[covered].mean() > 0.8 if covered.any() else True)
        hidden += covered.any()
    assert 15 < hidden < 40


def test_ict_facekit_has_its_landmarks_on_its_features(real_data):
    ict = heads.ict_facekit(real_data / "ict_facekit" / "ict_facekit.npz")
    points, ours = np.asarray(ict.model.mean)[np.asarray(ict.model.landmarks)], head.landmarks98()
    assert ict.model.identity.shape[2] == 100 and ict.model.expression.shape[2] == 57
    assert np.linalg.norm(points - ours, axis=1)[33:].max() < 9  # millimetres: another face, the same features
    np.testing.assert_allclose(points[FACES98.flip] * [-1, 1, 1], points, atol=1.5)
    assert (ict.candidates[:, 0] == np.asarray(ict.model.landmarks)[:33]).all()
    one, other = photographs(5, 15, 2, 96, turns=[heads.built_in(), ict])
    assert len(one["params"]) == 62 and len(other["params"]) == 12 + 100 + 57
    assert np.abs(one["image"].astype(int) - other["image"]).mean() > 5 and np.isfinite(one["landmarks"]).all()
    with pytest.raises(ValueError, match="is not ICT-FaceKit"):
        heads.ict_facekit(real_data / "tddfa_v2" / "bfm68.npz")
