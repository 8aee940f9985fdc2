import csv
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import quickstart
from data_sets import write_video
from PIL import Image

from jaxlm import __main__ as front_door
from jaxlm import geometry
from jaxlm.data.readers import tables
from jaxlm.data.readers.points import read_points_folder, read_pts
from jaxlm.data.rendered.faces import photographs
from jaxlm.data.samples import validate
from jaxlm.data.video_files import VideoFile
from jaxlm.predict import detectors, face_boxes, outputs
from jaxlm.predict.inputs import find_inputs, read_boxes_csv, to_rgb
from jaxlm.predict.model import TrainedModel, load_model, shipped_folder
from jaxlm.predict.predictor import Predictor
from jaxlm.predict.session import Session
from jaxlm.predict.video import LiveTracker, VideoPredictor
from jaxlm.schemes import FACES68, FACES68_OF_FACES98
from jaxlm.support import pictures, program
from jaxlm.systems import Prediction

SPOT = np.array([41.0, 30.0])  # x, y


def finder(crop: str = "gt") -> tuple[TrainedModel, list[int]]:
    """A model that knows one thing: where the crop is brightest; its 68 landmarks lie around there. And its batches."""
    config = quickstart.get_config("smoke")
    config.data.crop = crop
    batches = []

    def find(images):
        images = np.asarray(images)
        batches.append(len(images))
        weight = np.maximum(images.mean(axis=-1) - 128.0, 1e-9)
        rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
        total = weight.sum(axis=(1, 2))
        center = np.stack([(weight * grid).sum(axis=(1, 2)) / total for grid in (columns, rows)], axis=-1)
        corners = np.tile([[-8.0, -8.0], [8.0, 8.0]], (34, 1))
        return Prediction(jnp.asarray(center[:, None] + corners), jnp.full((len(images), 68), 0.5), {})

    return TrainedModel(config, find, None, None, "finder"), batches


def picture(shape=(72, 90), spot=SPOT) -> np.ndarray:
    image = np.zeros((*shape, 3), np.float32)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image += 255 * np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / 8)[..., None]
    return image.astype(np.uint8)


class TestPredictor:
    def test_landmarks_come_back_to_the_picture(self):
        model, _ = finder()
        for box in ([30, 20, 54, 44], [20, 25, 60, 45], [35.5, 22, 70, 60]):
            (face,) = Predictor(model)(picture(), np.array([box]))
            np.testing.assert_allclose(face.landmarks.mean(axis=0), SPOT, atol=0.1)
            assert face.landmarks.shape == (68, 2) and face.params is None

    def test_the_crop_is_taken_again_where_boxes_are_rough(self):
        for crop, given, looks in (("gt", True, 3), ("reinit", True, 1), ("reinit", False, 3)):
            model, batches = finder(crop)
            found = np.array([[30.0, 20, 54, 44]])
            Predictor(model, detector=lambda image, found=found: found)(picture(), found if given else None)
            assert len(batches) == looks
        model, batches = finder()
        Predictor(model, refine=0)(picture(), np.array([[30, 20, 54, 44]]))
        assert len(batches) == 1

    def test_many_pictures_are_seen_in_batches_of_one_size(self):
        model, batches = finder()
        images = [picture(spot=SPOT + [i, i / 2]) for i in range(5)]
        boxes = [np.array([[28, 18, 56, 46.0]]), None, *[np.array([[28, 18, 56, 46.0]] * n) for n in (2, 0, 1)]]
        predictor = Predictor(model, detector=lambda image: np.array([[28, 18, 56, 46.0]]), batch_size=4, refine=1)
        together = predictor.many(images, boxes)
        assert [len(faces) for faces in together] == [1, 1, 2, 0, 1] and set(batches) == {1, 4}
        for image, own, faces in zip(images, boxes, together, strict=True):
            for face, alone in zip(faces, predictor(image, own), strict=True):
                np.testing.assert_allclose(face.landmarks, alone.landmarks, atol=1e-3)

    @pytest.mark.parametrize(
        ("faces", "sizes"), [(1, [1]), (2, [2]), (3, [4]), (5, [8]), (9, [12]), (12, [12]), (13, [12, 1])]
    )
    def test_a_few_faces_are_not_padded_to_a_whole_batch(self, faces, sizes):
        model, batches = finder()
        Predictor(model, batch_size=12, refine=0)(picture(), np.array([[28, 18, 56, 46.0]] * faces))
        assert batches == sizes

    def test_one_face_is_not_two(self):
        model, _ = finder()
        boxes = np.array([[28, 18, 56, 46.0], [30, 20, 58, 48], [24, 15, 50, 40]])
        assert len(Predictor(model, detector=lambda image: boxes)(picture())) == 1
        assert len(Predictor(model)(picture(), boxes)) == 3  # of boxes that are given each is meant

    @pytest.mark.parametrize(
        ("image", "boxes", "message"),
        [
            (np.zeros((9, 9), np.int32), None, r"uint8 or of floats in \[0, 1\], got shape \(9, 9\) of int32"),
            (np.full((9, 9, 3), 255.0), None, r"must lie in \[0, 1\]; give one in \[0, 255\] as uint8"),
            (np.full((9, 9, 3), np.nan), None, r"must lie in \[0, 1\]"),
            (np.zeros((2, 9, 9, 3), np.uint8), None, r"got shape \(2, 9, 9, 3\)"),
            ([1, 2], None, "got a list"),
            ("missing.png", None, "No such file"),
            (picture(), np.zeros((2, 3)), r"shape \(N, 4\)"),
            (picture(), np.array([[5, 5, 5, 9]]), "no area"),
            (picture(), np.array([[100, 5, 120, 9]]), "outside the picture of 90×72 pixels"),
            (picture(), np.array([[np.nan, 5, 20, 9]]), "no area"),
        ],
    )
    def test_bad_input(self, image, boxes, message):
        with pytest.raises((ValueError, OSError), match=message):
            Predictor(finder()[0])(image, boxes)

    def test_pictures_of_every_kind_are_the_same_picture(self, tmp_path):
        grey = picture()[..., :1]
        rgb = np.repeat(grey, 3, axis=2)
        cv2.imwrite(str(tmp_path / "grey.png"), grey)
        kinds = {
            "grey": grey[..., 0],
            "one channel": grey,
            "alpha": np.concatenate([rgb, 0 * grey], axis=2),
            "floats": rgb / 255,
            "half floats": (rgb / 255).astype(np.float16),
            "jax": jnp.asarray(rgb) / 255,
            "path": tmp_path / "grey.png",
            "name": str(tmp_path / "grey.png"),
            "PIL": Image.fromarray(rgb),
            "PIL, grey": Image.fromarray(grey[..., 0]),
        }
        for name, kind in kinds.items():
            np.testing.assert_array_equal(to_rgb(kind), rgb, err_msg=name)
        predictor = Predictor(finder()[0], detector=detectors.whole_picture)
        expected = predictor(rgb)[0].landmarks
        np.testing.assert_array_equal(predictor(kinds["PIL"])[0].landmarks, expected)

    def test_pil_pictures_stand_upright(self):
        turned, content = Image.fromarray(picture()), io.BytesIO()
        turned.getexif()[0x0112] = 6  # the camera was turned clockwise
        turned.save(content, format="png", exif=turned.getexif())
        np.testing.assert_array_equal(to_rgb(Image.open(content)), np.rot90(picture(), -1))


class TestShippedModel:
    def test_it_is_small_and_finds_landmarks(self):
        folder = shipped_folder()
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5e6
        predictor = Predictor.load(refine=0)
        faces = list(photographs(99, 0, 4, 160))
        points = [face["landmarks"][FACES68_OF_FACES98] for face in faces]
        found = predictor.many([face["image"] for face in faces], [geometry.box_of_points(p)[None] for p in points])
        for truth, (face,) in zip(points, found, strict=True):
            error = np.linalg.norm(face.landmarks - truth, axis=-1).mean()
            assert error < 0.08 * np.linalg.norm(truth[36] - truth[45])

    def test_four_threads_find_what_one_finds(self):
        predictor = Predictor.load(refine=0)
        images = [face["image"] for face in photographs(5, 0, 6, 200)]
        images = [
            cv2.copyMakeBorder(image, *([60 + 10 * n] * 4), cv2.BORDER_REPLICATE) for n, image in enumerate(images)
        ]
        alone = [predictor(image) for image in images]
        assert sum(map(len, alone)) >= 3
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(predictor, images * 6))
        for number, faces in enumerate(together):
            for face, expected in zip(faces, alone[number % len(images)], strict=True):
                np.testing.assert_allclose(face.landmarks, expected.landmarks, atol=1e-3)

    def test_on_real_faces(self, real_data):
        predictor, errors = Predictor.load(), []
        for path in sorted((real_data / "300w" / "lfpw" / "trainset").glob("*.jpg"))[::100]:
            (sample,) = [s for s in read_points_folder(path.parent, 68) if s.image == path][:1]
            image = pictures.decode_image(path.read_bytes())
            faces = predictor(image)
            errors.append(min((np.abs(face.landmarks - sample.landmarks).mean() for face in faces), default=np.inf))
            errors[-1] /= np.linalg.norm(sample.landmarks[36] - sample.landmarks[45])
        assert np.median(errors) < 0.1


def jpeg_lying_on_its_side(image: np.ndarray) -> bytes:
    """A JPEG whose EXIF says that it has to be turned by 90 degrees clockwise to stand."""
    content = cv2.imencode(".jpg", image)[1].tobytes()
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation, short, one, 6
    exif = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    return content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:]


class TestProgram:
    def session(self, out, **options):
        model, _ = finder()
        return Session(Predictor(model, detector=detectors.whole_picture), program.make_folder(out), **options)

    def test_a_folder_of_everything(self, tmp_path, capsys):
        folder = tmp_path / "in"
        (folder / "more").mkdir(parents=True)
        cv2.imwrite(str(folder / "a.png"), picture())
        cv2.imwrite(str(folder / "more" / "a.png"), picture(spot=SPOT + 3))
        cv2.imwrite(str(folder / "dot.png"), np.zeros((1, 1, 3), np.uint8))
        (folder / "text.jpg").write_text("not a picture")
        (folder / "half.jpg").write_bytes(cv2.imencode(".jpg", picture())[1].tobytes()[:200])
        (folder / "notes.txt").write_text("no business of ours")
        session, inputs = self.session(tmp_path / "out"), find_inputs([str(folder)])
        session.pictures(inputs.pictures, None, batch_size=2)
        session.write("finder")
        printed = capsys.readouterr()
        assert "5 pictures" in printed.out and "2 faces in 2 of them, 0 without a face, 3 failed" in printed.out
        for words in (
            "text.jpg is truncated or not a picture",
            "half.jpg is truncated or not a picture",
            "dot.png has 1×1 pixels",
        ):
            assert words in printed.err
        files = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert files == [
            "a_0.pts", "a_landmarks.png", "more_a_0.pts", "more_a_landmarks.png", "predictions.csv", "predictions.json",
        ]  # fmt: skip
        content = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert content["scheme"] == "faces68" and sum("error" in entry for entry in content["files"]) == 3
        points = read_pts(tmp_path / "out" / "more_a_0.pts", 68)
        np.testing.assert_allclose(points.mean(axis=0), SPOT + 3, atol=0.1)
        # The table is a data set.
        samples = list(tables.read_csv(tmp_path / "out" / "predictions.csv", 68))
        np.testing.assert_allclose(samples[0].landmarks.mean(axis=0), SPOT, atol=0.1)
        assert all(validate(sample) for sample in samples)  # their pictures are found

    def test_one_that_fails_does_not_take_the_others_along(self, tmp_path, capsys, monkeypatch):
        for name in "abc":
            cv2.imwrite(str(tmp_path / f"{name}.png"), picture((72, 91 if name == "b" else 90)))
        session = self.session(tmp_path / "out", overlays=False)
        real = session._predictor.many

        def many(images, boxes):
            if any(image.shape[1] == 91 for image in images):
                raise cv2.error("SHRT_MAX")
            return real(images, boxes)

        monkeypatch.setattr(session._predictor, "many", many)
        session.pictures(find_inputs([str(tmp_path)]).pictures, None, batch_size=4)
        assert "b.png cannot be worked on: SHRT_MAX" in capsys.readouterr().err
        assert sorted(entry.get("name", "failed") for entry in session.entries) == ["a", "c", "failed"]

    def test_pictures_stand_upright(self, tmp_path):
        (tmp_path / "phone.jpg").write_bytes(jpeg_lying_on_its_side(picture()))
        session = self.session(tmp_path / "out", overlays=False)
        session.pictures(find_inputs([str(tmp_path / "phone.jpg")]).pictures, None, batch_size=1)
        (entry,) = session.entries
        assert (entry["width"], entry["height"]) == (72, 90)
        np.testing.assert_allclose(np.mean(entry["faces"][0]["landmarks"], axis=0), [71 - SPOT[1], SPOT[0]], atol=0.5)

    def test_boxes_of_a_file(self, tmp_path, capsys):
        cv2.imwrite(str(tmp_path / "a.png"), picture())
        cv2.imwrite(str(tmp_path / "b.png"), picture())
        table = tmp_path / "boxes.csv"
        table.write_text("image,left,top,right,bottom\na.png,30,20,54,44\na.png,20,20,60,45\nc.png,1,2,3,4\n")
        session = self.session(tmp_path / "out", overlays=False)
        session.pictures(find_inputs([str(tmp_path)]).pictures, read_boxes_csv(table), batch_size=4)
        assert len(session.entries[-1]["faces"]) == 2
        assert "b.png has no line in the file of --boxes" in capsys.readouterr().err
        (tmp_path / "more").mkdir()
        cv2.imwrite(str(tmp_path / "more" / "a.png"), picture())
        files = find_inputs([str(tmp_path)], tmp_path / "out").pictures
        session.pictures([file for file in files if file[0].name == "a.png"], read_boxes_csv(table), batch_size=4)
        assert capsys.readouterr().err.count("several pictures are called a.png") == 2
        for text, message in (
            ("image,left\n", "line 1: the header lacks top"),
            ("image,left,top,right,bottom\na.png,x,1,1,1", "line 2"),
        ):
            table.write_text(text)
            with pytest.raises(ValueError, match=message):
                read_boxes_csv(table)

    def test_names_that_cannot_be_used(self, tmp_path):
        (tmp_path / "a.txt").write_text("")
        for names, message in (
            (["nowhere.jpg"], "does not exist"),
            ([str(tmp_path)], "holds no picture"),
            ([str(tmp_path / "a.txt")], "neither a picture nor a video"),
        ):
            with pytest.raises(ValueError, match=message):
                find_inputs(names)
        with pytest.raises(ValueError, match="cannot be written to"):
            program.make_folder(tmp_path / "a.txt" / "out")

    def test_one_sentence_on_the_command_line(self, tmp_path, capsys):
        (tmp_path / "half").mkdir()
        (tmp_path / "half" / "config.json").write_text('{"system": "ldeq"')
        cv2.imwrite(str(tmp_path / "a.png"), picture())
        words = [f"--workdir={tmp_path}/half", f"--out={tmp_path}/out", f"{tmp_path}/a.png"]
        with pytest.raises(SystemExit) as end:
            front_door.main("predict", words)
        assert end.value.code == 2 and "is not valid JSON" in capsys.readouterr().err
        command = [sys.executable, "-m", "jaxlm.predict"]  # as it was called before there was a front door
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2 and "Name pictures, folders" in result.stderr and "Traceback" not in result.stderr


class TestVideos:
    def test_faces_come_and_go(self, tmp_path):
        write_video(tmp_path / "clip.mp4", 30)
        calls = iter(range(1000))

        def detector(image):
            next(calls)
            return np.array([[4.0, 4, 20, 20], [40, 20, 60, 40]])

        frames = []

        def landmarker(image, box):
            frames.append(box)
            # The right face is lost once, in the middle of the clip.
            lost = box[0] > 30 and sum(b[0] > 30 for b in frames) == 15
            return np.array([box[:2], box[2:]]), 0.1 if lost else 0.9

        tracks = face_boxes.find_faces(VideoFile(tmp_path / "clip.mp4"), detector, landmarker, 0.4, max_faces=3)
        assert len(tracks) == 2
        missing = [np.isnan(boxes).any(axis=1) for boxes in tracks]
        # Found in frame 0 with three looks, lost at the fifteenth, and found again when the detector is asked next.
        assert not missing[0].any() and missing[1].sum() == 20 - 12 and not missing[1][20:].any()
        np.testing.assert_allclose(tracks[1][0], [40, 20, 60, 40])

    def test_a_file_is_followed_and_written(self, video_workdir, tmp_path, capsys):
        _, folder = video_workdir
        predictor = Predictor.load(folder)
        write_video(tmp_path / "clip.mp4", 6)
        boxes = np.tile([5.0, 5, 40, 40], (6, 1))
        boxes[2] = np.nan
        (tmp_path / "bad.mp4").write_text("no video")
        session = Session(predictor, program.make_folder(tmp_path / "out"))
        follow = VideoPredictor(predictor)
        assert follow.method == "rwr"
        session.videos(find_inputs([str(tmp_path / "bad.mp4")]).videos, follow, None)
        session.videos(find_inputs([str(tmp_path / "clip.mp4")]).videos, follow, boxes)
        assert "bad.mp4 is not a video" in capsys.readouterr().err
        assert [entry.get("frames") for entry in session.entries] == [None, 6]
        rows = list(csv.DictReader((tmp_path / "out" / "clip.csv").read_text().splitlines()))
        assert [row["frame"] for row in rows] == ["0", "1", "3", "4", "5"] and {row["face"] for row in rows} == {"0"}
        assert VideoFile(tmp_path / "out" / "clip_landmarks.mp4").count() == 6

    def test_live_starts_anew_only_where_it_must(self, video_workdir, tmp_path, monkeypatch):
        _, folder = video_workdir
        model, asked, seen = load_model(folder), [], []
        predictor = Predictor(model, detector=lambda image: asked.append(1) or np.array([[5.0, 5, 40, 40]]))
        frames = write_video(tmp_path / "clip.mp4", 6)
        tracker = LiveTracker(predictor)
        landmarks, score = tracker._look(frames[0], np.array([5.0, 5, 40, 40]), True)  # as it is
        assert landmarks.shape == (68, 2) and score.shape == (68,) and np.isfinite(landmarks).all()

        def follow(variables, image, restart, exists, past):
            seen.append((bool(restart[0, 0]), past))
            lost = len(seen) == 3
            points = np.tile([[3.0, 3.0], [28.0, 28.0]], (34, 1))[None, None]
            return Prediction(points, np.full((1, 1, 68), 0.1 if lost else 0.9), {}), len(seen)

        monkeypatch.setattr(tracker, "_track", follow)
        monkeypatch.setattr(tracker, "_past", 0)
        monkeypatch.setattr(tracker, "_landmarker", lambda frame, box: (box.reshape(2, 2), 0.9))
        faces = [tracker(frame) for frame in frames]
        assert [face is None for face in faces] == [False, False, True, False, False, False]
        assert [restart for restart, _ in seen] == [True, False, False, True, False, False]
        assert [past for _, past in seen] == [0, 1, 2, 3, 4, 5] and len(asked) == 2
        written = outputs.track_of_faces(faces, FACES68.num_landmarks)
        assert np.isnan(written.landmarks).all(axis=(1, 2)).tolist() == [face is None for face in faces]

    def test_a_stream_without_frames(self, video_workdir, tmp_path):
        session = Session(Predictor.load(video_workdir[1]), program.make_folder(tmp_path / "out"))
        with pytest.raises(ValueError, match="gave no frame"):
            session.stream("camera0", iter(()), 25.0)
        assert list((tmp_path / "out").iterdir()) == []

    def test_smaller_faces_join_those_that_are_followed(self, tmp_path):
        write_video(tmp_path / "clip.mp4", 25)
        large, small = np.array([4.0, 4, 34, 34]), np.array([44.0, 24, 60, 40])
        times = iter(range(1000))

        def detector(image):
            return np.array([large]) if next(times) == 0 else np.array([large, small])

        def landmarker(image, box):
            return np.array([box[:2], box[2:]]), 0.9

        tracks = face_boxes.find_faces(VideoFile(tmp_path / "clip.mp4"), detector, landmarker, 0.4, max_faces=2)
        assert len(tracks) == 2 and np.isnan(tracks[1]).any(axis=1).sum() == 10
