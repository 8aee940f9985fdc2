"""Temporal filters against flicker: conventional baselines for the landmarks or scores of any system.

Every filter takes the values (T, ...) of one video and returns the same shape. Frames with a NaN (a lost face) become
NaN, and the filter restarts after them. The exponential average, the causal Savitzky–Golay and the One Euro filter use
no later frames; the centred Savitzky–Golay filter does.
"""

from collections.abc import Callable

import numpy as np

Filter = Callable[[np.ndarray], np.ndarray]


def exponential_moving_average(values: np.ndarray, alpha: float, score: np.ndarray | None = None) -> np.ndarray:
    """Exponential moving average, yₙ = α xₙ + (1 − α) yₙ₋₁, section 6.2 of Micaelli et al., CVPR 2023.

    Args:
        values: (T, ...).
        alpha: α in (0, 1]; 1 leaves the values as they are.
        score: (T, K) for values (T, K, ...), weight of each landmark in each frame, so that uncertain frames count
            for less: yₙ = Σ wₙ₋ᵢ xₙ₋ᵢ / Σ wₙ₋ᵢ with wₙ₋ᵢ = α (1 − α)ⁱ scoreₙ₋ᵢ. The weight of the first frame has no
            factor α.

    Raises:
        ValueError: if α is outside (0, 1].
    """
    _check("alpha", alpha, 0, 1)
    weights = np.ones(values.shape[:1]) if score is None else np.asarray(score, np.float64)
    weights = weights.reshape(*weights.shape, *[1] * (values.ndim - weights.ndim))

    def average(run: slice) -> np.ndarray:
        total = filtered = None
        result = np.empty(values[run].shape)
        for time, (value, weight) in enumerate(zip(values[run], weights[run], strict=True)):
            if total is None:
                total, filtered = weight, value.astype(np.float64)
            else:
                total = (1 - alpha) * total + alpha * weight
                filtered = filtered + alpha * weight / np.maximum(total, 1e-12) * (value - filtered)
            result[time] = filtered
        return result

    return _in_runs(values, average)


def savitzky_golay(values: np.ndarray, window: int, degree: int = 2, *, causal: bool = False) -> np.ndarray:
    """Value of a polynomial fitted to a window of frames (Savitzky & Golay, 1964), by SciPy.

    Args:
        values: (T, ...).
        window: odd number of frames; a shorter run of frames uses the largest odd number that fits.
        degree: degree of the polynomial, below `window`.
        causal: the window ends at the frame instead of being centred on it; it is shorter at the start of a run.

    Raises:
        ValueError: if the window is not a positive odd number, or the degree is negative or not below the window.
    """
    from scipy.signal import savgol_coeffs, savgol_filter  # takes a second

    if window < 1 or window % 2 == 0 or degree >= window or degree < 0:
        raise ValueError(f"window must be odd and larger than degree, got {window} and {degree}.")

    def fit(run: slice) -> np.ndarray:
        part = np.asarray(values[run], np.float64)
        length = len(part)
        fitting = min(window, length - 1 + length % 2)
        if not causal:
            return np.asarray(savgol_filter(part, fitting, min(degree, fitting - 1), axis=0))
        result = np.empty(part.shape)
        for time in range(length):
            size = min(window, time + 1)
            coefficients = savgol_coeffs(size, min(degree, size - 1), pos=size - 1, use="dot")
            result[time] = np.tensordot(coefficients, part[time + 1 - size : time + 1], axes=1)
        return result

    return _in_runs(values, fit)


def one_euro(
    values: np.ndarray, *, fps: float = 25.0, min_cutoff: float = 1.0, beta: float = 0.05, speed_cutoff: float = 1.0
) -> np.ndarray:
    """One Euro filter (Casiez et al., CHI 2012): a low-pass filter whose cutoff grows with the speed.

    Args:
        values: (T, ...).
        fps: frames per second.
        min_cutoff: cutoff at rest in Hz; lower is smoother.
        beta: growth of the cutoff in Hz for each unit of `values` per second; higher lags less.
        speed_cutoff: cutoff in Hz of the low-pass filter of the speed.

    Raises:
        ValueError: if an option is not positive (β may be 0).
    """
    if min(fps, min_cutoff, speed_cutoff) <= 0 or beta < 0:
        raise ValueError("fps, min_cutoff and speed_cutoff must be positive and beta not negative.")

    def share(cutoff):
        return 1 / (1 + fps / (2 * np.pi * cutoff))

    def low_pass(run: slice) -> np.ndarray:
        part = np.asarray(values[run], np.float64)
        result, speed = part.copy(), np.zeros(part.shape[1:])
        for time in range(1, len(part)):
            # Speed relative to the last filtered value, as in the authors' reference program.
            speed = speed + share(speed_cutoff) * ((part[time] - result[time - 1]) * fps - speed)
            result[time] = result[time - 1] + share(min_cutoff + beta * np.abs(speed)) * (part[time] - result[time - 1])
        return result

    return _in_runs(values, low_pass)


def _in_runs(values: np.ndarray, function: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Applies `function` to every run of frames without a NaN."""
    values = np.asarray(values)
    present = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(int)))
    result = np.full(values.shape, np.nan)
    for start, stop in edges.reshape(-1, 2):
        result[start:stop] = function(slice(start, stop))
    return result


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low < value <= high:
        raise ValueError(f"{name} must lie in ({low}, {high}], got {value}.")


def parse(spec: str) -> Callable[[np.ndarray, np.ndarray | None, float], np.ndarray]:
    """Returns the filter that a text describes.

    Args:
        spec: "ema:0.7" or "ema_score:0.7" (α), "savgol:7,2" or "savgol_causal:7,2" (window, degree), or
            "one_euro:1,0.05" (minimal cutoff, β, for landmarks in hundredths of the face's size).

    Returns:
        (values (T, K, 2), scores (T, K), frames per second) -> filtered values.

    Raises:
        ValueError: if the filter is unknown or its numbers are too few, too many or out of range.
    """
    name, _, text = spec.partition(":")
    filters = {
        "ema": lambda values, score, fps, alpha: exponential_moving_average(values, alpha),
        "ema_score": lambda values, score, fps, alpha: exponential_moving_average(values, alpha, score),
        "savgol": lambda values, score, fps, window, degree: savitzky_golay(values, int(window), int(degree)),
        "savgol_causal": lambda values, score, fps, window, degree: savitzky_golay(
            values, int(window), int(degree), causal=True
        ),
        "one_euro": lambda values, score, fps, cutoff, beta: one_euro(values, fps=fps, min_cutoff=cutoff, beta=beta),
    }
    if name not in filters:
        raise ValueError(f"There is no filter {name!r}; choose one of {', '.join(filters)}.")
    wanted = filters[name].__code__.co_argcount - 3
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != wanted:
        raise ValueError(f"The filter {spec!r} must look like {name}:{','.join(['1'] * wanted)}.")

    def apply(values, score, fps):
        return filters[name](values, score, fps, *numbers)

    # Raises here, before any video is tracked, if a number is out of range.
    apply(np.zeros((9, 1, 2)), np.ones((9, 1)), 25.0)
    return apply
