import numpy as np
import pytest

from jaxlm import schemes
from jaxlm.data import crops
from jaxlm.face3d.head import landmarks98
from jaxlm.schemes import SCHEMES, get_scheme, normalizer


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_is_consistent(name):
    scheme = SCHEMES[name]
    flip = scheme.flip
    np.testing.assert_array_equal(flip[flip], np.arange(scheme.num_landmarks))
    if scheme.torso is None:
        left, right = scheme.outer_eye_corners
        assert flip[left] == right
        assert {int(flip[i]) for i in scheme.pupils[0]} == set(scheme.pupils[1])
        assert {int(flip[i]) for i in scheme.parts["left_eye"]} == set(scheme.parts["right_eye"])
    for part in set(scheme.parts) - {"left_eye", "right_eye"}:
        assert {int(flip[i]) for i in scheme.parts[part]} == set(scheme.parts[part])
    assert len(set(scheme.names)) == scheme.num_landmarks
    used = [i for part in scheme.parts.values() for i in part]
    assert sorted(used) == sorted(set(used)) and set(used) <= set(range(scheme.num_landmarks))
    for line in scheme.lines:
        mirrored = {frozenset((int(flip[a]), int(flip[b]))) for a, b in zip(line.points, line.points[1:], strict=False)}
        segments = {
            frozenset(pair) for other in scheme.lines for pair in zip(other.points, other.points[1:], strict=False)
        } | {frozenset((other.points[0], other.points[-1])) for other in scheme.lines if other.closed}
        assert mirrored <= segments, line.name


def test_the_98_point_flip_mirrors_a_symmetric_face():
    points = landmarks98()[:, :2]
    np.testing.assert_allclose(points[schemes.FACES98.flip] * [-1, 1], points, atol=1e-6)
    sixty_eight = points[schemes.FACES68_OF_FACES98]
    np.testing.assert_allclose(sixty_eight[schemes.FACES68.flip] * [-1, 1], sixty_eight, atol=1e-6)


def test_normalizers_by_hand():
    scheme, points = schemes.FACES68, np.zeros((68, 2))
    points[36], points[45] = [10, 20], [40, 60]
    mask = np.ones(68, bool)
    assert normalizer("inter_ocular", scheme, points, mask) == 50
    points[36:42], points[42:48] = [0, 0], [3, 4]
    assert normalizer("inter_pupil", scheme, points, mask) == 5
    assert normalizer("box", scheme, points, mask, np.array([0.0, 0.0, 8.0, 2.0])) == 4
    assert normalizer("diagonal", scheme, points, mask) == 5
    body = np.zeros((14, 2))
    body[9], body[2] = [6, 1], [0, 9]
    assert normalizer("torso", schemes.LSP14, body, mask[:14]) == 10
    mask[36] = False
    assert normalizer("inter_ocular", scheme, points, mask) == 0
    with pytest.raises(ValueError, match="choose one of inter_ocular"):
        normalizer("eyes", scheme, points, mask)
    with pytest.raises(ValueError, match="lsp14 has no normalizer 'inter_ocular'; choose one of torso, box"):
        normalizer("inter_ocular", schemes.LSP14, body, mask[:14])


BOX, POINTS = np.array([10.0, 20.0, 50.0, 100.0]), np.array([[0.0, 30.0], [40.0, 90.0]])
EXPECTED = {
    "awing": [-14, 16, 74, 104],
    "hih": [-15, 20, 65, 100],
    "gt": [-17.5, 22.5, 57.5, 97.5],
    "reinit": [-18, 12, 78, 108],
    "ldeq_video": [-18, 12, 78, 108],
    "tddfa_box": [-17.4, 21.0, 77.4, 115.8],
    "box": [-10, 20, 70, 100],
}


@pytest.mark.parametrize("protocol", EXPECTED)
def test_crop_protocols_by_hand(protocol):
    box = crops.crop_box(protocol, box=BOX, points=POINTS)
    np.testing.assert_allclose(box, EXPECTED[protocol])


def test_landmark_crop_is_the_square_times_root_two():
    box = crops.crop_box("tddfa_landmarks", box=BOX, points=POINTS)
    np.testing.assert_allclose(box[2] - box[0], 60 * np.sqrt(2))
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, [20, 60])


def test_unknown_names_say_what_exists():
    with pytest.raises(ValueError, match="choose one of awing"):
        crops.crop_box("tight", box=BOX, points=POINTS)
    with pytest.raises(ValueError, match="choose one of faces98"):
        get_scheme("faces5")


def test_errors_are_reported_of_the_groups_of_table_1():
    groups = get_scheme("faces68").groups
    assert list(groups) == ["contour", "eyebrows", "eyes", "nose", "mouth"]
    assert groups["eyebrows"] == tuple(range(17, 27)) and groups["eyes"] == tuple(range(36, 48))
    assert {96, 97} <= set(get_scheme("faces98").groups["eyes"])
    for scheme in SCHEMES.values():
        assert sorted(i for points in scheme.groups.values() for i in points) == list(range(scheme.num_landmarks))


@pytest.mark.parametrize("protocol", crops.PROTOCOLS)
def test_what_is_not_known_of_a_face_is_taken_from_the_rest(protocol):
    around = np.concatenate([POINTS.min(axis=0), POINTS.max(axis=0)])
    np.testing.assert_allclose(
        crops.crop_box(protocol, points=POINTS), crops.crop_box(protocol, box=around, points=POINTS)
    )
    np.testing.assert_allclose(
        crops.crop_box(protocol, box=BOX), crops.crop_box(protocol, box=BOX, points=np.reshape(BOX, (2, 2)))
    )
    with pytest.raises(ValueError, match="without a box and without landmarks"):
        crops.crop_box(protocol, points=np.zeros((0, 2)))


@pytest.mark.parametrize("protocol", crops.PROTOCOLS)
def test_a_face_with_one_landmark_is_cropped_by_its_box(protocol):
    box = np.array([10.0, 20.0, 70.0, 90.0])
    found = crops.crop_box(protocol, box=box, points=np.array([[30.0, 40.0]]))
    np.testing.assert_array_equal(found, crops.crop_box(protocol, box=box, points=box.reshape(2, 2)))
