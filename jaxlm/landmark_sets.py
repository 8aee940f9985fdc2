"""Landmarks of other schemes as means of the 68 that a morphable model names."""

import numpy as np

from jaxlm.data.schemes import AFLW19, AFLW21, FACES68

# AFLW's ear points lie nearest to the third contour points (`docs/tddfa.md` says how near).
_OF_AFLW21 = {
    0: (17,), 1: (19,), 2: (21,), 3: (22,), 4: (24,), 5: (26,),
    6: (36,), 7: (37, 38, 40, 41), 8: (39,), 9: (42,), 10: (43, 44, 46, 47), 11: (45,),
    12: (2,), 13: (31,), 14: (30,), 15: (35,), 16: (14,),
    17: (60,), 18: (62, 66), 19: (64,), 20: (8,),
}  # fmt: skip


def from_68(scheme: str) -> np.ndarray:
    """(K, 68) float32 weights, each row summing to 1, that turn the 68 landmarks into those of `scheme`.

    Raises:
        ValueError: for a scheme that the 68 do not contain.
    """
    aflw21 = [_OF_AFLW21[index] for index in range(AFLW21.num_landmarks)]
    groups = {
        FACES68.name: [(index,) for index in range(68)],
        AFLW21.name: aflw21,
        AFLW19.name: [group for index, group in enumerate(aflw21) if index not in (12, 16)],
    }
    if scheme not in groups:
        raise ValueError(f"The 68 landmarks do not contain those of {scheme!r}; choose one of {', '.join(groups)}.")
    weights = np.zeros((len(groups[scheme]), 68), np.float32)
    for row, group in enumerate(groups[scheme]):
        weights[row, list(group)] = 1.0 / len(group)
    return weights
