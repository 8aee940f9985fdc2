"""Landmarks over time: recurrence without recurrence, the energy of Eq. (8), filters. Micaelli et al., CVPR 2023."""

from jaxlm.video.recurrence import Tracking, rwr

__all__ = ["Tracking", "rwr"]
