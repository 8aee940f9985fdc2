import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm import geometry


def test_a_resize_keeps_the_corners_of_the_image():
    points = np.array([[-0.5, -0.5], [63.5, 63.5], [31.5, 31.5]])
    np.testing.assert_allclose(geometry.rescale_points(points, 4.0), [[-0.5, -0.5], [255.5, 255.5], [127.5, 127.5]])


@given(st.floats(0.2, 5), st.floats(-180, 180), st.floats(-50, 50), st.floats(-50, 50))
def test_affine_maps_invert_and_compose(scale, degrees, x, y):
    a = geometry.similarity(scale, degrees, np.array([x, y]), np.array([y, 1.0]))
    b = geometry.similarity(1.5, 20.0, np.array([1.0, 2.0]), np.array([x, 3.0]))
    points = np.array([[0.0, 0.0], [3.0, -4.0], [x, y]])
    np.testing.assert_allclose(geometry.apply_affine(a, points)[2], [y, 1.0], atol=1e-9)
    back = geometry.apply_affine(geometry.invert_affine(a), geometry.apply_affine(a, points))
    np.testing.assert_allclose(back, points, atol=1e-8)
    both = geometry.apply_affine(geometry.compose_affine(b, a), points)
    np.testing.assert_allclose(both, geometry.apply_affine(b, geometry.apply_affine(a, points)), atol=1e-8)


def test_positive_rotation_turns_x_towards_y():
    matrix = geometry.similarity(1.0, 90.0, np.zeros(2), np.zeros(2))
    np.testing.assert_allclose(geometry.apply_affine(matrix, np.array([[1.0, 0.0]])), [[0.0, 1.0]], atol=1e-12)


def test_a_whole_image_as_box_is_a_plain_resize():
    image = np.random.default_rng(0).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
    matrix = geometry.box_to_crop(np.array([-0.5, -0.5, 31.5, 31.5]), 64)
    warped = cv2.warpAffine(image, matrix, (64, 64), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    resized = cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(warped.astype(int) - resized).max() <= 3


def test_boxes():
    points = np.array([[1.0, 2.0], [5.0, 4.0], [100.0, 100.0]])
    mask = np.array([True, True, False])
    np.testing.assert_array_equal(geometry.box_of_points(points, mask), [1, 2, 5, 4])
    np.testing.assert_array_equal(geometry.square_box(np.array([1.0, 2.0, 5.0, 4.0]), 1.5), [0, 0, 6, 6])
    np.testing.assert_array_equal(geometry.scale_box(np.array([0.0, 0.0, 4.0, 2.0]), 2.0), [-2, -1, 6, 3])
    with pytest.raises(ValueError, match="No landmark exists"):
        geometry.box_of_points(points, np.zeros(3, bool))
