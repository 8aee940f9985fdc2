"""Reads samples from the XML files of dlib's imglab."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from jaxlm.data.samples import Sample, picture_of_table
from jaxlm.support.errors import BadSample


def read_imglab(
    path: Path, num_landmarks: int, notices: list[str] | None = None, *, images: str = ""
) -> Iterator[Sample | BadSample]:
    """Samples of an XML file of dlib's imglab: a box with `part`s, named by their number, for each face.

    Parts that are not there are missing landmarks. Coordinates are 0-based pixels. Boxes to ignore and boxes without
    parts are left out and counted in `notices`. Pictures are found as those of `jaxlm.data.readers.tables.read_csv`. A
    face that cannot be used is yielded as a BadSample.

    Raises:
        BadSample: if the file is not of this form.
    """
    content = path.read_bytes()
    if b"<!ENTITY" in content.replace(b"\0", b""):
        raise BadSample(f"{path} defines entities, which imglab does not write; remove them.")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise BadSample(f"{path} is not XML ({error}).") from None
    pictures = root.findall("images/image")
    if not pictures:
        raise BadSample(f"{path} is not imglab's: expected dataset, images, image with a file, box and part.")
    left_out = 0
    for picture in pictures:
        name = picture.get("file", "")
        for number, box in enumerate(picture.findall("box")):
            if box.get("ignore") == "1" or box.find("part") is None:
                left_out += 1
                continue
            where = f"{path}, box {number} of {name or 'an image without file'}"
            try:
                points = _points(box, num_landmarks, where)
                left, top, width, height = (float(box.get(side, "")) for side in ("left", "top", "width", "height"))
            except BadSample as error:
                yield error
                continue
            except ValueError:
                yield BadSample(f"{where}: left, top, width and height must be numbers.")
                continue
            bounds = np.array([left, top, left + width, top + height])
            yield Sample(picture_of_table(path, name, images), points, where, bounds, key=f"{name}#{number}")
    if left_out and notices is not None:
        notices.append(f"{path.name}: {left_out} boxes to ignore, or without parts, are left out")


def _points(box: ElementTree.Element, num_landmarks: int, where: str) -> np.ndarray:
    points = np.full((num_landmarks, 2), np.nan)
    for part in box.findall("part"):
        name = part.get("name", "")
        try:
            index, x, y = int(name), float(part.get("x", "")), float(part.get("y", ""))
        except ValueError:
            raise BadSample(f"{where}: a part has the name {name!r}; expected a number, and numbers x y.") from None
        if not 0 <= index < num_landmarks:
            raise BadSample(f"{where} has the part {index} where the scheme has {num_landmarks}: choose another one.")
        points[index] = x, y
    return points
