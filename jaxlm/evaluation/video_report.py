"""Reports of an evaluation on videos: table, plots of accuracy against flicker and of trajectories, clips."""

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxlm import geometry
from jaxlm.config import Config
from jaxlm.data.sources import VideoSource
from jaxlm.data.video_batches import Video, video_of
from jaxlm.data.video_files import VideoWriter
from jaxlm.evaluation.videos import TunedAverage, VideoResult
from jaxlm.predict.follower import Track
from jaxlm.schemes import Scheme
from jaxlm.support import drawing, files
from jaxlm.support.files import write_atomically

# Of the trackers, and of the filters in the order in which they come.
COLORS = {"frame": "black", "early": "tab:gray", "rwr": "tab:blue", "energy": "tab:green", "heatmap_ema": "tab:purple"}
FILTER_COLORS = ("tab:orange", "tab:cyan", "tab:red", "tab:brown", "tab:pink", "tab:olive")


def table(result: VideoResult, config: Config, title: str) -> str:
    """Text table with a line for each method, with its change relative to the first one."""
    frames = sum(len(track.landmarks) for track in next(iter(result.tracks.values())))
    lines = [
        f"{title}: {len(result.keys)} videos, {frames} frames, crop {config.video.crop}, "
        f"normalizer {config.data.normalizer}, {config.image_size} pixels",
        f"{'method':<22}{'NME %':>8}{'':>28}{'NMF':>9}{'':>28}{'NMF (11)':>10}{'stability %':>13}{'jitter %':>10}"
        f"{'restarts %':>12}",
    ]
    for method in result.scores:
        row = result.row(method)
        nme, nmf = (change_text(result.change(method, name)) for name in ("nme", "nmf"))
        lines.append(
            f"{method:<22}{row['nme']:>8.3f}{nme:>28}{row['nmf']:>9.1f}{nmf:>28}"
            f"{row['nmf_paper']:>10.5f}{row['stability']:>13.3f}{row['jitter']:>10.3f}{row['restarts']:>12.1f}"
        )
    return "\n".join(lines)


def change_text(change: tuple[float, float, float] | None) -> str:
    """A relative change with its interval in percent, such as "-7.5 % (-9.1 to -5.8)"; "" for None."""
    if change is None:
        return ""
    mean, low, high = (100 * value for value in change)
    return f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"


def write_report(
    folder: Path,
    name: str,
    result: VideoResult,
    source: VideoSource,
    config: Config,
    step: int | None,
    tuned: TunedAverage | None = None,
) -> list[Path]:
    """Writes `<name>.json`, `<name>_frames.csv`, trajectories and the clips that flicker most; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "data": source.name,
        "split": source.split,
        "units": {"nme": "percent", "nmf": "hundredths of a pixel of a 256 × 256 face", "nmf_paper": "fraction"},
        "crop": config.video.crop,
        "normalizer": config.data.normalizer,
        "image_size": config.image_size,
        "step": step,
        "methods": {method: result.row(method) for method in result.scores},
        "changes": {  # fraction and its 95 % interval over the videos, from the first method
            method: {name: result.change(method, name) for name in ("nme", "nmf")} for method in result.scores
        },
        "average_with_nmf_of_rwr": None if tuned is None else tuned.row(),
        "videos": [_video_row(result, index) for index in range(len(result.keys))],
    }
    paths = [folder / f"{name}.json", folder / f"{name}_frames.csv"]
    write_atomically(paths[0], json.dumps(files.without_nan(report), indent=2) + "\n")
    write_atomically(paths[1], _frames_csv(result))
    left, right = _compared(result)
    flicker = np.array([score.nmf for score in result.scores[left]])
    for rank, index in enumerate(np.argsort(-np.nan_to_num(flicker))[: config.video.clips]):
        record = source.records[index]
        tracks = {method: result.tracks[method][index] for method in dict.fromkeys((left, right))}
        clip = folder / f"{name}_{_safe(result.keys[index])}.mp4"
        captions = {method: f"{method}: NMF {result.scores[method][index].nmf:.0f}" for method in tracks}
        write_clip(clip, video_of(record), tracks, source.scheme, captions=captions)
        paths.append(clip)
        if rank == 0:
            paths.append(folder / f"{name}_trajectories.png")
            plot_trajectories(paths[-1], video_of(record), tracks, title=f"{name}, {result.keys[index]}")
    return paths


def _compared(result: VideoResult) -> tuple[str, str]:
    """Names of the two methods shown side by side: the first one, and RwR or, without it, the second."""
    names = list(result.scores)
    return names[0], "rwr" if "rwr" in names else names[min(1, len(names) - 1)]


def _safe(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in key)


def _video_row(result: VideoResult, index: int) -> dict:
    row: dict[str, Any] = {
        "key": result.keys[index],
        "frames": len(next(iter(result.tracks.values()))[index].landmarks),
    }
    for method in result.scores:
        row[method] = {name: float(values[index]) for name, values in result.values(method).items()}
    return row


def _frames_csv(result: VideoResult) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "video", "frame", "nme_percent", "flicker_released", "restarted"])
    for method, scores in result.scores.items():
        for key, score, track in zip(result.keys, scores, result.tracks[method], strict=True):
            rows = zip(100 * score.nme, 100 * 256 * score.flicker, track.restarted, strict=True)
            for frame, (nme, flicker, restarted) in enumerate(rows):
                numbers = [f"{value:.4f}" if np.isfinite(value) else "" for value in (nme, flicker)]
                writer.writerow([method, key, frame, *numbers, int(restarted)])
    return text.getvalue()


def write_clip(
    path: Path, video: Video, tracks: dict[str, Track], scheme: Scheme, *, captions: dict[str, str], height: int = 400
) -> None:
    """Writes the video with landmarks, one picture for each track side by side, each about `height` pixels high."""
    with VideoWriter(path, video.file.fps, video.file) as writer:
        for time, frame in zip(range(len(video)), video.file, strict=False):
            scale = height / frame.shape[0]
            # The codec takes pictures of at most 8192 pixels in width.
            scale = min(scale, 8000 / (len(tracks) * frame.shape[1]))
            pictures = []
            for method, track in tracks.items():
                points = geometry.rescale_points(track.landmarks[time], scale)
                method_picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=_resampling(scale))
                drawn = drawing.draw_landmarks(method_picture, points, scheme)
                pictures.append(drawing.caption(drawn, captions[method]))
            writer.write(np.concatenate(pictures, axis=1))


def _resampling(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC


def plot_accuracy_flicker(path: Path, reports: dict[str, dict[str, Any]]) -> None:
    """Plots NME against NMF as in Figure 5 of Micaelli et al., CVPR 2023, with a curve for each family of methods.

    Trackers are stars, with the 95 % intervals of their changes from the first method; filters are dots.

    Args:
        path: file to write.
        reports: split -> content of the JSON file that `write_report` writes.
    """
    with drawing.figure(path, columns=len(reports), size=(5.6, 4.8)) as panels:
        for axes, (split, report) in zip(panels, reports.items(), strict=True):
            points = {name: (row["nmf"], row["nme"]) for name, row in report["methods"].items()}
            tuned = report["average_with_nmf_of_rwr"]
            if tuned is not None:
                points[f"frame+ema:{tuned['alpha']:.3f}"] = tuned["nmf"], tuned["nme"]
            families: dict[str, list[str]] = {}
            for name in points:
                families.setdefault(_family(name), []).append(name)
            filters = [family for family in families if "+" in family]
            for family, names in families.items():
                names = sorted(names, key=lambda name: _numbers(name.removeprefix(family)))
                filtered = family in filters
                color = FILTER_COLORS[filters.index(family) % len(FILTER_COLORS)] if filtered else COLORS[family]
                style = dict(marker="o", markersize=4) if filtered else dict(marker="*", markersize=11)
                axes.plot(
                    *zip(*(points[name] for name in names), strict=True), lw=1, color=color, label=family, **style
                )
                for name in names:
                    setting = name.removeprefix(family).removeprefix(":")
                    place = dict(xytext=(4, 3), textcoords="offset points")
                    axes.annotate(setting, points[name], fontsize=7, color=color, **place)
                    changes = report["changes"].get(name)
                    if not filtered and changes and None not in changes.values():
                        _draw_intervals(axes, report, name, color)
            axes.set(xlabel="NMF (flicker)", ylabel="NME (%)", title=split)
            axes.grid(alpha=0.3)
        panels[0].legend(frameon=False, fontsize=8)


def _family(method: str) -> str:
    """A method without the numbers of its last part: "rwr" of "rwr:2", "rwr:2+ema" of "rwr:2+ema:0.7"."""
    tracker, plus, filter_name = method.partition("+")
    return f"{tracker}+{filter_name.partition(':')[0]}" if plus else tracker.partition(":")[0]


def _numbers(setting: str) -> list[float]:
    """Numbers of a setting such as ":7,2"; none of ""."""
    return [float(part) for part in setting.removeprefix(":").split(",") if part]


def _draw_intervals(axes, report: dict[str, Any], method: str, color: str) -> None:
    """Error bars of a method's point, from the intervals of its changes from the first method."""
    first, errors = next(iter(report["methods"].values())), {}
    for name in ("nmf", "nme"):
        change, low, high = report["changes"][method][name]
        errors[name] = [[max(first[name] * end, 0.0)] for end in (change - low, high - change)]
    row = report["methods"][method]
    axes.errorbar(row["nmf"], row["nme"], xerr=errors["nmf"], yerr=errors["nme"], color=color, lw=0.8, alpha=0.5)


def plot_trajectories(path: Path, video: Video, tracks: dict[str, Track], *, title: str, count: int = 3) -> None:
    """Plots trajectories of the landmarks that flicker most, relative to the face's box, in percent of its size.

    Args:
        path: file to write.
        video: video with its labels.
        tracks: method -> track; the landmarks that flicker most in the first one are chosen.
        title: title of the figure.
        count: number of landmarks.
    """
    center = (video.boxes[:, None, :2] + video.boxes[:, None, 2:]) / 2
    size = np.sqrt(np.prod(video.boxes[:, 2:] - video.boxes[:, :2], axis=-1))[:, None, None] / 100

    def relative(points: np.ndarray) -> np.ndarray:
        return (points - center) / size

    truth = np.where(video.mask[..., None], video.landmarks, np.nan)
    residual = next(iter(tracks.values())).landmarks - truth
    flicker = np.nan_to_num(np.diff(residual, axis=0) ** 2).sum(axis=(0, 2))
    chosen: list[int] = []
    for landmark in np.argsort(-flicker):
        # Neighbours flicker alike and would show the same curve.
        if all(abs(landmark - other) > 4 for other in chosen):
            chosen.append(int(landmark))
    chosen = chosen[:count]
    curves = {"ground truth": relative(truth)} | {name: relative(track.landmarks) for name, track in tracks.items()}
    with drawing.figure(path, rows=len(chosen), columns=2, size=(5.5, 2.0), title=title) as panels:
        for axes, (landmark, axis) in zip(panels, itertools.product(chosen, (0, 1)), strict=True):
            for name, points in curves.items():
                color = {"ground truth": "tab:gray"}.get(name) or COLORS[_family(name.partition("+")[0])]
                width = 2 if name == "ground truth" else 1.2
                axes.plot(points[:, landmark, axis], color=color, label=name, linewidth=width)
            axes.set_ylabel(f"{'xy'[axis]} of landmark {landmark} (%)", fontsize=8)
            axes.grid(alpha=0.3)
        panels[0].legend(frameon=False, fontsize=8, ncols=len(curves), loc="lower left", bbox_to_anchor=(0, 1))
        for axes in panels[-2:]:
            axes.set_xlabel("frame")
