"""The files that people have: tables of every program, points of every name, pictures of every kind."""

import json
import time

import cv2
import numpy as np
import pytest
from data_sets import face, write_csv, write_pts

from jaxlm.commands import cache
from jaxlm.config import load_config_file
from jaxlm.data.readers.coco import read_coco
from jaxlm.data.readers.imglab import read_imglab
from jaxlm.data.readers.points import points_files, read_points_folder
from jaxlm.data.readers.tables import read_csv
from jaxlm.data.samples import Sample, validate
from jaxlm.data.sets.own import OwnData
from jaxlm.data.sources import prepare_source, with_source
from jaxlm.data.video_files import VideoFile, VideoWriter, is_video
from jaxlm.predict.inputs import find_inputs
from jaxlm.support import pictures
from jaxlm.support.errors import BadSample


def good(samples) -> list[Sample]:
    samples = list(samples)
    assert all(isinstance(sample, Sample) for sample in samples), samples
    return samples


def jpeg_lying_on_its_side(image: np.ndarray) -> bytes:
    """A JPEG of `image`, stored so that its EXIF has to turn it by 90 degrees clockwise to stand."""
    content = cv2.imencode(".jpg", np.rot90(image), [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation, short, one, 6
    exif = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    return content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:]


class TestTables:
    @pytest.mark.parametrize("kind", ["comma", "tab", "semicolon", "crlf", "bom", "utf-16", "latin-1", "capitals"])
    def test_every_dialect_reads_the_same(self, tmp_path, kind):
        path = write_csv(tmp_path, 2)
        expected = good(read_csv(path, 68))
        text = path.read_text()
        if kind == "tab":
            path.write_text(text.replace(",", "\t"))
        elif kind == "semicolon":
            path.write_text(text.replace(",", ";").replace(".", ",").replace(",jpg", ".jpg"))
        elif kind == "crlf":
            path.write_bytes(text.replace("\n", "\r\n").encode())
        elif kind == "bom":
            path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        elif kind == "utf-16":
            path.write_bytes(text.encode("utf-16"))
        elif kind == "latin-1":
            path.write_bytes(text.replace("person", "personé").encode("latin-1"))
            for picture in list((tmp_path / "images").iterdir()):
                picture.rename(picture.with_name(picture.name.replace("person", "personé")))
        elif kind == "capitals":
            header, rest = text.split("\n", 1)
            path = path.rename(path.with_name("FACES.CSV"))
            path.write_text(header.upper() + "\n" + rest)
        found = good(read_csv(path, 68))
        assert len(found) == 2
        for sample, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(sample.landmarks, other.landmarks)
            validate(sample)

    def test_a_stray_quote_spoils_one_line(self, tmp_path):
        path = write_csv(tmp_path, 3)
        lines = path.read_text().splitlines()
        lines[2] = '"' + lines[2]
        path.write_text("\n".join(lines))
        samples = list(read_csv(path, 68))
        assert [isinstance(sample, Sample) for sample in samples] == [True, False, True]
        assert "line 3" in str(samples[1]) and "stray quote" in str(samples[1])

    def test_a_comment_with_line_breaks(self, tmp_path):
        path = write_csv(tmp_path, 3)
        header, *lines = path.read_text().splitlines()
        lines[1] += ',"two\nlines, with a ""quote"""'
        path.write_text("\n".join([f"{header},comment", f"{lines[0]},", lines[1], f"{lines[2]},none"]))
        samples = list(read_csv(path, 68))
        assert [isinstance(sample, Sample) for sample in samples] == [True] * 3
        assert samples[2].where.endswith("line 5")

    def test_two_stray_quotes_spoil_two_lines(self, tmp_path):
        path = write_csv(tmp_path, 4)
        lines = path.read_text().splitlines()
        lines[1], lines[3] = '"' + lines[1], '"' + lines[3]
        path.write_text("\n".join(lines))
        assert [isinstance(sample, Sample) for sample in read_csv(path, 68)] == [False, True, False, True]

    def test_pictures_in_another_folder(self, tmp_path):
        path = write_csv(tmp_path / "tables", 2)
        (tmp_path / "tables" / "images").rename(tmp_path / "photographs")
        builder = OwnData(path, tmp_path / "cache", scheme="faces68", images=str(tmp_path / "photographs"))
        builder.prepare()
        assert builder.info.splits["train"].num_examples == 2
        with pytest.raises(ValueError, match="is no folder: set the source's images"):
            OwnData(path, tmp_path / "cache", scheme="faces68", images=str(tmp_path / "nowhere"))

    @pytest.mark.parametrize("cell", ["a" * 300 + ".jpg", "b" * 140_000, "c\x00.jpg"])
    def test_awkward_names_are_named(self, tmp_path, cell):
        path = write_csv(tmp_path, 1)
        header, line = path.read_text().splitlines()
        path.write_text(f"{header}\n{line.replace('person 0_0.jpg', cell)}\n")
        OwnData(path, tmp_path / "cache", scheme="faces68")
        with pytest.raises(BadSample, match="line 2"):
            for sample in read_csv(path, 68):
                if isinstance(sample, BadSample):
                    raise sample
                validate(sample)

    def test_a_file_of_another_kind_is_a_sentence(self, tmp_path):
        (tmp_path / "faces.xlsx").write_text("")
        with pytest.raises(ValueError, match=r"faces\.xlsx is none of \.csv"):
            OwnData(tmp_path / "faces.xlsx", tmp_path / "cache", scheme="faces68")


class TestCoco:
    def write(self, folder, *annotations):
        image, points = face(0)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "a.png"), image)
        keypoints = np.concatenate([points, np.full((68, 1), 2.0)], axis=1)
        one = {"image_id": 1, "keypoints": keypoints.ravel().tolist()}
        whole = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [one, *annotations]}
        (folder / "faces.json").write_text(json.dumps(whole))
        return folder / "faces.json", points

    def test_people_without_keypoints_and_crowds_are_left_out_and_counted(self, tmp_path):
        others = [{"image_id": 1}, {"image_id": 1, "keypoints": []}, {"image_id": 1, "keypoints": None}]
        others += [{"image_id": 1, "keypoints": [3.0, 4.0, 0] * 68}, {"image_id": 1, "iscrowd": 1, "keypoints": {}}]
        path, points = self.write(tmp_path, *others)
        notices: list[str] = []
        (sample,) = good(read_coco(path, 68, notices))
        np.testing.assert_allclose(sample.landmarks, points)
        assert "5 annotations" in notices[0]

    def test_v_0_is_missing_wherever_it_lies(self, tmp_path):
        path, points = self.write(tmp_path)
        content = json.loads(path.read_text())
        numbers = content["annotations"][0]["keypoints"]
        numbers[:9] = [-1, -1, 0, 7.5, 8, 0, 0, 0, 0]
        path.write_text(json.dumps(content))
        (sample,) = good(read_coco(path, 68))
        assert np.isnan(sample.landmarks[:3]).all()
        np.testing.assert_allclose(sample.landmarks[3:], points[3:])

    def test_annotations_beside_images(self, tmp_path):
        path, _ = self.write(tmp_path / "annotations")
        (tmp_path / "images").mkdir()
        (tmp_path / "annotations" / "a.png").rename(tmp_path / "images" / "a.png")
        validate(good(read_coco(path, 68))[0])

    @pytest.mark.parametrize(
        ("annotation", "message"),
        [
            (5, "must be an object"),
            ([[{}]], "must be an object"),
            ({"image_id": [1], "keypoints": [1, 2, 2] * 68}, "image_id must be the id"),
            ({"image_id": 1, "keypoints": {"a": 1}}, "0 numbers in keypoints"),
            ({"image_id": 1, "keypoints": [[1], 2, 2] * 68}, "must be lists of numbers"),
            ({"image_id": 1, "keypoints": [1, 2, 2] * 68, "bbox": "abcd"}, "must be lists of numbers"),
        ],
    )
    def test_nonsense_is_named(self, tmp_path, annotation, message):
        path, _ = self.write(tmp_path, annotation)
        first, second = read_coco(path, 68)
        assert isinstance(first, Sample) and isinstance(second, BadSample)
        assert "annotations[1]" in str(second) and message in str(second)

    @pytest.mark.parametrize("content", ["null", "[]", '{"images": [], "annotations": null}', '{"images": [5]}', "["])
    def test_another_file_is_named(self, tmp_path, content):
        (tmp_path / "faces.json").write_text(content)
        with pytest.raises(BadSample, match=r"faces\.json is not COCO-keypoints JSON"):
            list(read_coco(tmp_path / "faces.json", 68))


class TestImglab:
    def write(self, folder, boxes: str):
        image, points = face(0)
        cv2.imwrite(str(folder / "a.png"), image)
        parts = "".join(f"<part name='{i:02}' x='{x}' y='{y}'/>" for i, (x, y) in enumerate(points) if i != 5)
        one = f"<box top='4' left='6' width='80' height='70'>{parts}</box>"
        text = f"<?xml version='1.0'?><dataset><images><image file='a.png'>{one}{boxes}</image></images></dataset>"
        (folder / "faces.xml").write_text(text)
        return folder / "faces.xml", points

    def test_faces_with_parts(self, tmp_path):
        ignored = "<box top='1' left='1' width='9' height='9' ignore='1'/><box top='1' left='1' width='9' height='9'/>"
        path, points = self.write(tmp_path, ignored)
        notices: list[str] = []
        (sample,) = good(read_imglab(path, 68, notices))
        assert np.isnan(sample.landmarks[5]).all() and "2 boxes" in notices[0]
        np.testing.assert_allclose(np.delete(sample.landmarks, 5, axis=0), np.delete(points, 5, axis=0))
        np.testing.assert_array_equal(sample.bbox, [6, 4, 86, 74])
        validate(sample)
        builder = OwnData(path, tmp_path / "cache", scheme="faces68")
        builder.prepare()
        assert builder.info.splits["train"].num_examples == 1

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            ("<box top='x' left='1' width='9' height='9'><part name='0' x='1' y='2'/></box>", "must be numbers"),
            ("<box top='1' left='1' width='9' height='9'><part name='nose' x='1' y='2'/></box>", "the name 'nose'"),
            ("<box top='1' left='1' width='9' height='9'><part name='68' x='1' y='2'/></box>", "has the part 68"),
        ],
    )
    def test_a_bad_box_is_named(self, tmp_path, box, message):
        path, _ = self.write(tmp_path, box)
        first, second = read_imglab(path, 68)
        assert isinstance(first, Sample) and isinstance(second, BadSample)
        assert "box 1 of a.png" in str(second) and message in str(second)

    @pytest.mark.parametrize(
        ("content", "message"),
        [("<a>", "is not XML"), ("<a/>", "is not imglab's"), ("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "entities")],
    )
    def test_another_file_is_named(self, tmp_path, content, message):
        (tmp_path / "faces.xml").write_text(content)
        with pytest.raises(BadSample, match=message):
            list(read_imglab(tmp_path / "faces.xml", 68))


class TestPoints:
    @pytest.mark.parametrize("kind", ["JPEG", "PTS", "webp", "a.png.pts", "folders", "mac", "linked"])
    def test_every_name(self, tmp_path, kind):
        folder = tmp_path / "faces"
        write_pts(folder, 1, prefix="a")
        image, points = face(0)
        picture, file = folder / "a_000.png", folder / "a_000.pts"
        if kind == "PTS":
            file.rename(folder / "a_000.PTS")
        elif kind == "a.png.pts":
            file.rename(folder / "a_000.png.pts")
        elif kind == "folders":
            for path, place in ((picture, "pictures"), (file, "points")):
                (folder / place).mkdir()
                path.rename(folder / place / path.name)
            (folder / "pictures" / "a_000.txt").write_text("a caption, no points")
        elif kind == "mac":
            (folder / "._a_000.pts").write_bytes(b"\x00\x05\x16\x07")
            (folder / "._a_000.png").write_bytes(b"\x00\x05\x16\x07")
        elif kind == "linked":
            folder.rename(tmp_path / "elsewhere")
            folder.mkdir()
            (folder / "link").symlink_to(tmp_path / "elsewhere")
            (tmp_path / "elsewhere" / "back").symlink_to(folder)
        else:
            picture.unlink()
            cv2.imwrite(str(folder / f"a_000.{kind}"), image)
        (sample,) = good(read_points_folder(folder, 68))
        np.testing.assert_allclose(sample.landmarks, points, atol=1e-3)
        validate(sample)

    def test_coordinates_that_mean_missing(self, tmp_path):
        write_pts(tmp_path, 1)
        file = tmp_path / "image_000.pts"
        lines = file.read_text().splitlines()
        lines[3:6] = ["-1.000 -1.000", "0 0", "-1 7.5"]
        file.write_text("\n".join(lines))
        missing = {(): [], (-1.0,): [0], (-1.0, 0.0): [0, 1]}
        for values, expected in missing.items():
            notices: list[str] = []
            (sample,) = good(read_points_folder(tmp_path, 68, notices, missing=values))
            assert np.flatnonzero(np.isnan(sample.landmarks).all(axis=1)).tolist() == expected
            assert len(notices) == bool(expected)

    def test_a_picture_with_points_of_its_own_is_not_that_of_others(self, tmp_path):
        for person in ("anna", "bert"):
            write_pts(tmp_path / person, 1)
        (tmp_path / "anna" / "image_000.png").unlink()
        first, second = read_points_folder(tmp_path, 68)
        assert isinstance(first, BadSample) and "has no picture beside it" in str(first)
        assert isinstance(second, Sample)

    def test_two_pictures_of_one_name(self, tmp_path):
        write_pts(tmp_path, 1)
        for place in ("a", "b"):
            (tmp_path / place).mkdir()
            (tmp_path / place / "image_000.png").write_bytes((tmp_path / "image_000.png").read_bytes())
        good(read_points_folder(tmp_path, 68))  # the one beside the points
        (tmp_path / "image_000.png").unlink()
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "image_000.png").write_bytes((tmp_path / "a" / "image_000.png").read_bytes())
        (tmp_path / "c" / "image_000.pts").write_text((tmp_path / "image_000.pts").read_text())
        sample, other = read_points_folder(tmp_path, 68)
        if isinstance(sample, Sample):  # the order of the two files
            sample, other = other, sample
        assert isinstance(other, Sample) and str(other.image).endswith("c/image_000.png")
        assert isinstance(sample, BadSample) and "give each picture a name of its own" in str(sample)
        assert len(points_files(tmp_path)) == 2


class TestPictures:
    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    def test_the_range_of_a_camera(self, bits):
        grey = np.linspace(0, 255, 64 * 48).reshape(48, 64)
        stored = np.round(grey / 255 * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        content = cv2.imencode(".png", stored)[1].tobytes()
        np.testing.assert_allclose(pictures.decode_image(content)[..., 0], grey, atol=1.01)

    def test_floats(self):
        grey = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)
        content = cv2.imencode(".tiff", grey)[1].tobytes()
        np.testing.assert_allclose(pictures.decode_image(content)[..., 0], 255 * grey, atol=1.01)

    @pytest.mark.parametrize("ending", [".webp", ".tif", ".jp2", ".avif", ".gif"])
    def test_every_kind(self, tmp_path, ending):
        image, _ = face(0)
        if not cv2.haveImageWriter(f"a{ending}"):
            pytest.skip(f"OpenCV does not write {ending} here")
        cv2.imwrite(str(tmp_path / f"a{ending}"), image)
        found = find_inputs([str(tmp_path)])
        assert [path.name for path, _ in found.pictures] == [f"a{ending}"] and not found.videos
        decoded = pictures.decode_image((tmp_path / f"a{ending}").read_bytes())
        assert np.abs(decoded.astype(int) - image[..., ::-1]).mean() < 20  # a GIF has few colours

    def test_a_picture_without_an_ending(self, tmp_path):
        image, _ = face(0)
        cv2.imwrite(str(tmp_path / "a.png"), image)
        (tmp_path / "a.png").rename(tmp_path / "a")
        assert len(find_inputs([str(tmp_path / "a")]).pictures) == 1

    def test_data_sets_are_upright_unless_told_otherwise(self, tmp_path):
        image, points = face(0)
        write_pts(tmp_path / "faces", 1)
        (tmp_path / "faces" / "image_000.png").unlink()
        (tmp_path / "faces" / "image_000.jpg").write_bytes(jpeg_lying_on_its_side(image))
        for upright in (True, False):
            builder = OwnData(tmp_path / "faces", tmp_path / "cache", scheme="faces68", upright=upright)
            builder.prepare()
            (record,) = builder.as_data_source(split="train")
            seen = image if upright else np.rot90(image)
            assert np.abs(pictures.decode_image(record["image"]).astype(int) - seen[..., ::-1]).mean() < 4
            np.testing.assert_allclose(record["landmarks"], points, atol=1e-3)


class TestInputs:
    def test_what_cannot_be_used_does_not_stop_the_rest(self, tmp_path):
        image, _ = face(0)
        cv2.imwrite(str(tmp_path / "a.png"), image)
        (tmp_path / "notes.txt").write_text("nothing")
        found = find_inputs([str(tmp_path), str(tmp_path / "nowhere.jpg"), str(tmp_path / "notes.txt")])
        assert len(found.pictures) == 1 and [path.name for path in found.skipped] == ["notes.txt"]
        assert ["does not exist" in found.failed[0][1], "neither a picture" in found.failed[1][1]] == [True, True]

    def test_a_name_with_a_colon_and_a_moving_gif_are_videos(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with VideoWriter(tmp_path / "a.mp4", 10) as writer:
            for number in range(4):
                writer.write(np.full((64, 64, 3), 40 * number, np.uint8))
        (tmp_path / "a.mp4").rename("2026-11-26T12:30:05.mp4")
        assert VideoFile("2026-11-26T12:30:05.mp4").count() == 4
        image_module = pytest.importorskip("PIL.Image")
        frames = [image_module.fromarray(np.full((64, 64, 3), 60 * number, np.uint8)) for number in range(4)]
        frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
        frames[0].save(tmp_path / "still.gif")
        assert is_video(tmp_path / "b.gif") and not is_video(tmp_path / "still.gif")
        assert VideoFile(tmp_path / "b.gif").count() == 4


class TestCache:
    def test_what_lies_beside_a_table_does_not_count(self, tmp_path):
        path = write_csv(tmp_path / "data", 2)

        def name() -> str:
            return OwnData(path, tmp_path / "cache", scheme="faces68").builder_config.name

        before = name()
        (tmp_path / "data" / "runs").mkdir()
        (tmp_path / "data" / "runs" / "log.txt").write_text("a run")
        assert name() == before
        image, _ = face(7)
        cv2.imwrite(str(next((tmp_path / "data" / "images").iterdir())), image)
        assert name() != before

    def test_old_versions_are_listed_and_removed(self, tmp_path, capsys):
        path = write_csv(tmp_path / "data", 2)

        def prepare(**options):
            config = with_source(load_config_file("quickstart:smoke"), "own", str(path))
            config.data.cache = str(tmp_path / "cache")
            with config.unlocked():
                config.data.sources.own.update(options)
            prepare_source(config, "own")

        for number in range(2):
            if number:
                time.sleep(0.02)
                path.write_text(path.read_text() + "\n")
            prepare()
        prepare(missing=(-1.0, 0.0))  # other options are another data set
        listed = cache.main(cache.Options(cache=str(tmp_path / "cache")))
        assert [one.outdated for one in listed] == [False, False, True]
        left = cache.main(cache.Options(cache=str(tmp_path / "cache"), remove=True))
        assert len(left) == 2 and "removed" in capsys.readouterr().out
        assert all(one.folder.is_dir() and str(path) in one.root for one in left) and not listed[2].folder.exists()
        stranger = tmp_path / "cache" / "coco" / "2017" / "1.0.0"
        stranger.mkdir(parents=True)
        (stranger / "dataset_info.json").write_text("{}")
        (left,) = cache.main(cache.Options(cache=str(tmp_path / "cache"), remove=True, unused=-1.0))
        assert left.folder == stranger  # of another program
        with pytest.raises(ValueError, match="goes with --remove"):
            cache.main(cache.Options(cache=str(tmp_path / "cache"), unused=3))
        with pytest.raises(ValueError, match="is no folder"):
            cache.main(cache.Options(cache=str(tmp_path / "nowhere")))

    def test_links_are_followed(self, tmp_path):
        write_pts(tmp_path / "elsewhere", 1)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")

        def name() -> str:
            return OwnData(tmp_path / "data", tmp_path / "cache", scheme="faces68").builder_config.name

        before = name()
        file = tmp_path / "elsewhere" / "image_000.pts"
        file.write_text(file.read_text().replace("version: 1", "version: 01"))
        assert name() != before
