"""Bins of the yaw angle, by which faces in large poses are evaluated: papers print the mean of the three."""

import numpy as np

YAW_BINS = ("yaw_0_30", "yaw_30_60", "yaw_60_90")


def yaw_bin(degrees: float) -> str:
    """The bin of an angle to either side: up to 30°, up to 60°, or more."""
    return YAW_BINS[int(np.searchsorted([30.0, 60.0], abs(degrees)))]
