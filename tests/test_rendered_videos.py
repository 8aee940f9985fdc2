import functools

import numpy as np
import pytest

from jaxlm import geometry
from jaxlm.data.rendered import videos


@functools.cache
def film(hard: bool):
    return videos.film(3, 0, num_frames=5, size=64, hard=hard)


@pytest.mark.parametrize("hard", [True, False])
def test_rendered_videos_move_and_repeat(hard):
    clip = film(hard)
    again = videos.film(3, 0, num_frames=5, size=64, hard=hard)
    np.testing.assert_array_equal(clip.frames, again.frames)
    np.testing.assert_array_equal(clip.landmarks, again.landmarks)
    steps = np.linalg.norm(np.diff(clip.landmarks, axis=0), axis=-1).mean(axis=1)
    assert (steps > 0.02).all() and (steps < 8).all()
    inside = (clip.landmarks > 0) & (clip.landmarks < 64)
    assert inside.mean() > 0.95 and clip.frames.std() > 10
    assert (np.abs(clip.bboxes - [geometry.box_of_points(s) for s in clip.landmarks]) < 6).all()


def test_hard_videos_are_rougher_than_easy_ones():
    def roughness(clip):
        return np.abs(np.diff(clip.frames.astype(float), axis=0)).mean()

    assert roughness(film(True)) > 1.5 * roughness(film(False))
