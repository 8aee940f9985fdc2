"""Landmarks on video: recurrence without recurrence, the energy of Eq. (8) (Micaelli et al., CVPR 2023), filters."""

from jaxlm.video.recurrence import Tracking, rwr

__all__ = ["Tracking", "rwr"]
