from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxlm import geometry
from jaxlm.data.rendered.faces import photographs
from jaxlm.predict import detectors


def test_a_whole_picture():
    np.testing.assert_array_equal(
        detectors.make_detector("whole")(np.zeros((72, 90, 3), np.uint8)), [[-0.5, -0.5, 89.5, 71.5]]
    )


def test_a_large_face_needs_no_search_of_the_whole_picture(monkeypatch):
    face = next(photographs(3, 5, 1, 160))
    large = cv2.resize(face["image"], (480, 480))
    small = np.full((480, 480, 3), 90, np.uint8)
    small[100:200, 150:250] = cv2.resize(face["image"], (100, 100))
    searched, detect = [], detectors._detect
    monkeypatch.setattr(detectors, "_detect", lambda c, grey: (searched.append(grey.shape), detect(c, grey))[1])
    haar = detectors.make_detector("haar")
    for image, corner, scale, sizes in (
        (large, (0, 0), 480 / 160, [(160, 160)]),
        (small, (150, 100), 100 / 160, [(160, 160), (480, 480)]),
    ):
        searched.clear()
        truth = geometry.box_of_points((face["landmarks"] + 0.5) * scale - 0.5 + corner)
        assert geometry.box_iou(haar(image)[0], truth) > 0.6
        assert searched == sizes


def test_nothing_to_see():
    haar = detectors.make_detector("haar")
    assert haar(np.zeros((60, 60, 3), np.uint8)).shape == (0, 4)
    assert haar(np.zeros((1, 900, 3), np.uint8)).shape == (0, 4)


def test_bad_input(tmp_path):
    (tmp_path / "a.onnx").write_text("no model")
    for arguments, message in (
        (("dlib",), "choose one of haar, centerface, yunet, whole"),
        (("yunet",), "--detector-file=face_detection_yunet"),
        (("centerface",), r"--detector-file=centerface\.onnx"),
        (("yunet", "missing.onnx"), "does not exist"),
        (("yunet", tmp_path / "a.onnx"), "not a model that OpenCV reads"),
        (("centerface", tmp_path / "a.onnx"), "not the CenterFace model that OpenCV reads"),
    ):
        with pytest.raises(ValueError, match=message):
            detectors.make_detector(*arguments)


def test_centerface_s_maps_become_boxes(monkeypatch):
    """The network's answers are made up: two faces, one of them twice."""
    sides = []

    class Network:
        def setInput(self, blob):
            sides.append(blob.shape[-1])
            self.cells = blob.shape[-1] // 4

        def forward(self, names):
            heat, lengths, offsets = (np.zeros((1, n, self.cells, self.cells), np.float32) for n in (1, 2, 2))
            for row, column, score, height, width in (
                (10, 20, 0.9, 40, 32),
                (10, 21, 0.7, 40, 32),
                (30, 8, 0.6, 20, 16),
            ):
                heat[0, 0, row, column] = score
                lengths[0, :, row, column] = np.log([height / 4, width / 4])
            offsets[0, :, 10, 20] = (0.25, -0.25)
            return [{"537": heat, "538": lengths, "539": offsets}[name] for name in names]

    monkeypatch.setattr(detectors, "_network", lambda path: Network())
    boxes = detectors.CenterFaceDetector(Path("a.onnx"))(np.zeros((512, 512, 3), np.uint8))
    assert sides == [256, 640]  # no face is large, so a second search follows
    # In the second search the copy has the picture's size: centre (4 (20.5 - 0.25), 4 (10.5 + 0.25)).
    left, top = 81 - 16, 43 - 20
    np.testing.assert_allclose(
        boxes[0], [left - 0.5, top + 0.262 * 40 - 0.5, left + 0.993 * 32 - 0.5, top + 40.2 - 0.5]
    )
    assert len(boxes) == 2 and np.ptp(boxes[1, ::2]) < 16
    sides.clear()
    detectors.CenterFaceDetector(Path("a.onnx"))(np.zeros((128, 128, 3), np.uint8))
    assert sides == [256]  # 40 of 128 pixels are enough
