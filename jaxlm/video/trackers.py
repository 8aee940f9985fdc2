"""Names of the ways in which an LDEQ goes from frame to frame, with their settings: "rwr:2", "heatmap_ema:0.7"."""

import math

# Tracker -> (fewest, most) settings that its name may carry; a setting that is left out is that of `config.video`.
TRACKERS = {
    "frame": (0, 0),  # every frame on its own, as a still
    "early": (0, 0),  # likewise, with the few steps of RwR
    "rwr": (0, 1),  # recurrence without recurrence: most steps of the solver
    "energy": (0, 1),  # the minimum of Eq. (8): its weight α
    "heatmap_ema": (1, 1),  # exponential moving average of the heatmaps of "frame": its α
}


def parse_tracker(text: str) -> tuple[str, list[float]]:
    """Name and settings of a tracker.

    Raises:
        ValueError: for an unknown tracker, or settings that are no positive numbers, too few or too many.
    """
    name, _, listed = text.partition(":")
    if name not in TRACKERS:
        raise ValueError(f"There is no method {name!r} in {text!r}; choose one of {', '.join(TRACKERS)}.")
    fewest, most = TRACKERS[name]
    try:
        settings = [float(part) for part in listed.split(",")] if listed else []
    except ValueError:
        settings = [0.0]
    if not fewest <= len(settings) <= most or not all(0 < value < math.inf for value in settings):
        wanted = " or ".join(f"{name}{':' if n else ''}{','.join(['1'] * n)}" for n in range(fewest, most + 1))
        raise ValueError(f"The method {text!r} must look like {wanted}, with positive numbers.")
    if name == "rwr" and settings and settings[0] != int(settings[0]):
        raise ValueError(f"The number of {text!r} counts steps; give a whole one.")
    if name == "heatmap_ema" and settings[0] > 1:
        raise ValueError(f"The number of {text!r} must lie in (0, 1].")
    return name, settings
