"""Equilibria of trained LDEQs: python -m benchmarks equilibria runs/a runs/b [--data=300w:heldout]

For each workdir, over the faces of a set of stills, or the frames of a set of videos (`--data=rendered_videos:hard`):

- evaluations of the cell until each solver meets the tolerance, the share of faces that do within 10, 15 and all steps,
  and the NME there;
- the same with the cell in bfloat16;
- spectral radius and largest singular value of the Jacobian at the equilibrium;
- from how many of several starts the same equilibrium is reached;
- the rank correlation of a face's evaluations with its error.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from benchmarks.table import Table
from jaxlm import implicit, metrics, solvers
from jaxlm.commands.options import Inputs
from jaxlm.data import batches, sources, video_batches
from jaxlm.schemes import get_scheme, normalizer
from jaxlm.systems.ldeq.system import SOLVERS, make_model
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Options:
    workdirs: Inputs
    """Folders that `jaxlm train` wrote."""
    data: str = ""
    """source:split of the configs; the first of eval.sets without it."""
    cache: str = ""
    """Folder of the prepared data; the config's own without it."""
    root: str = ""
    """Folder of the data sets; the config's own without it."""
    videos: int = 0
    """Number of rendered videos; the config's own without it."""
    faces: int = 128
    """Most faces or frames."""
    tol: float = 5e-3
    """Tolerance of the relative residual."""
    steps: int = 60
    """Most evaluations of the cell."""
    starts: int = 8
    """Starts of each face."""


def faces_of(config: Any, options: Options) -> dict[str, np.ndarray]:
    """Crops "image" (N, S, S, 3) of a set with "landmarks" in their pixels, "mask" and "normalizer"."""
    name = options.data or config.eval.sets[0]
    if sources.holds_videos(config, name.partition(":")[0]):
        return frames_of(config, name, options.faces)
    source = sources.open_set(config, name)
    found = list(batches.eval_batches(source, config, BATCH))
    kept = {
        key: np.concatenate([batch[key] for batch in found]) for key in ("image", "landmarks", "mask", "normalizer")
    }
    indices = np.concatenate([batch["index"] for batch in found])
    chosen = np.flatnonzero(indices >= 0)
    chosen = chosen[:: -(-len(chosen) // options.faces)]
    return {key: values[chosen] for key, values in kept.items()}


def frames_of(config: Any, name: str, count: int) -> dict[str, np.ndarray]:
    """As `faces_of`, of evenly spaced frames of videos."""
    scheme = get_scheme(config.scheme)
    (source,) = (s for s in sources.open_videos(config, name.partition(":")[0]) if s.split == name.partition(":")[2])
    found: dict[str, list[np.ndarray]] = {"image": [], "landmarks": [], "mask": [], "normalizer": []}
    for record in source.records:
        video = video_batches.video_of(record)
        settings = dict(crop=config.video.crop, size=config.image_size, chunk=len(video), min_iou=0.0)
        chunk = next(video_batches.crop_chunks([video], **settings))  # pyright: ignore[reportArgumentType]
        every = max(len(source.records) * len(video) // count, 1)
        for time in range(0, len(video), every):
            to_crop = chunk["transform"][0, time]
            points = video.landmarks[time] @ to_crop[:, :2].T + to_crop[:, 2]
            found["image"].append(chunk["image"][0, time])
            found["landmarks"].append(points)
            found["mask"].append(video.mask[time])
            length = normalizer(config.data.normalizer, scheme, points, video.mask[time], video.boxes[time])
            found["normalizer"].append(np.array(length, np.float32))
    return {key: np.stack(values)[:count] for key, values in found.items()}


def in_batches(function, *arrays):
    """`function` of pieces of the arrays, compiled once: leaves (N, ...)."""
    jitted, parts = jax.jit(function), []
    for start in range(0, len(arrays[0]), BATCH):
        piece = [array[start : start + BATCH] for array in arrays]
        count = len(piece[0])
        full = [np.concatenate([array, np.repeat(array[:1], BATCH - count, axis=0)]) for array in piece]
        parts.append([np.asarray(leaf)[:count] for leaf in jitted(*full)])
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]


def measure(workdir: str, options: Options, table: Table) -> None:
    """Adds the lines of one workdir."""
    config: Any = config_file.load_config(workdir)
    config.data.cache, config.data.root = options.cache or config.data.cache, options.root or config.data.root
    if options.videos:
        config.data.sources.rendered_videos.num_videos = options.videos
    variables, step = restore_variables(config, workdir)
    faces = faces_of(config, options)
    table.title(
        f"{workdir} at step {step}, {len(faces['image'])} faces of {options.data or config.eval.sets[0]}, "
        f"tolerance {options.tol:g}"
    )
    name_of = Path(workdir).name if len(options.workdirs) == 1 else workdir
    evaluations = np.empty(0)
    for dtype in ("float32", "bfloat16"):
        for name in SOLVERS:
            values, counts = converge(config, variables, faces, name, dtype, options)
            table.add(f"{name_of}, {name}, {dtype}", values)
            evaluations = counts if (name, dtype) == ("anderson", "float32") else evaluations
    table.add(f"{name_of}, Jacobian", spectrum(config, variables, faces))
    found, errors = starts(config, variables, faces, options)
    finite = np.isfinite(errors)
    correlation = stats.spearmanr(evaluations[finite], errors[finite])[0]
    found["rank correlation of evaluations and NME"] = float(correlation)  # pyright: ignore[reportArgumentType]
    table.add(f"{name_of}, {options.starts} starts", found)


def converge(config: Any, variables: Any, faces, name: str, dtype: str, options: Options):
    """Shares that converge, evaluations, NME in percent and median least residual of one solver."""
    config = config.copy_and_resolve_references()
    config.model.dtype = dtype
    model = make_model(config)

    def solve(images):
        solver = jax.tree_util.Partial(SOLVERS[name], tol=options.tol, max_steps=options.steps)
        output = model.predict(variables, images.astype(jnp.float32), solver=solver)
        assert output.stats is not None
        return output.landmarks, output.stats.best_step + 1, output.stats.residual, output.stats.converged

    landmarks, counts, residual, converged = in_batches(solve, faces["image"])
    counts = np.where(converged, counts, np.inf)
    nme = metrics.nme(landmarks, faces["landmarks"].astype(np.float32), faces["normalizer"], faces["mask"])
    row = {
        "% within 10": 100 * float(np.mean(counts <= 10)),
        "% within 15": 100 * float(np.mean(counts <= 15)),
        f"% within {options.steps}": 100 * float(np.mean(converged)),
        "median": float(np.median(counts)),
        "for 90 %": float(np.quantile(counts, 0.9, method="higher")),
        "NME %": 100 * metrics.mean(np.asarray(nme)),
        "median residual": float(np.median(residual)),
    }
    return row, np.minimum(counts, options.steps + 1)


def spectrum(config: Any, variables: Any, faces) -> dict[str, Any]:
    """Spectral radius, and the largest singular value by power iteration on JᵀJ, at each face's equilibrium."""
    model = make_model(config)

    def of_batch(images):
        injection, _ = model.inject(variables, images.astype(jnp.float32))
        args = (variables["params"]["cell"], injection)
        z, _ = solvers.anderson(lambda z: model.cell(z, args), model.initial_heatmaps(images), tol=1e-4, max_steps=100)
        radius = implicit.spectral_radius(model.cell, z, args, jax.random.key(0), num_steps=60)
        image, derivative = jax.linearize(lambda z: model.cell(z, args), z)
        transposed = jax.linear_transpose(derivative, image)

        def step(v, _):
            v = transposed(derivative(v))[0]
            length = jnp.sqrt(jnp.sum(v**2, axis=(1, 2, 3), keepdims=True))
            return v / length, jnp.sqrt(length[:, 0, 0, 0])

        v = jax.random.normal(jax.random.key(1), z.shape)
        return radius, jax.lax.scan(step, v, None, length=40)[1][-1]

    few = faces["image"][:BATCH]
    radius, largest = in_batches(of_batch, few)
    found = {}
    for name, values in (("spectral radius", radius), ("σ_max", largest)):
        found |= {
            f"{name}, {which}": float(np.quantile(values, q))
            for which, q in (("least", 0), ("median", 0.5), ("most", 1))
        }
    return found


def starts(config: Any, variables: Any, faces, options: Options) -> tuple[dict[str, Any], np.ndarray]:
    """Share of faces whose landmarks do not depend on z⁰: zeros, ones, noise, and equilibria of other faces."""
    model = make_model(config)

    def solve(images, z0):
        injection, _ = model.inject(variables, images.astype(jnp.float32))
        args = (variables["params"]["cell"], injection)
        z, found = solvers.anderson(
            lambda z: model.cell(z, args), z0, tol=1e-3, max_steps=3 * options.steps, image=True
        )
        return z, model.to_landmarks(z), found.converged

    count = len(faces["image"])
    zero = np.zeros((count, *model.initial_heatmaps(faces["image"][:1]).shape[1:]), np.float32)
    z, first, converged = in_batches(solve, faces["image"], zero)
    rng = np.random.default_rng(0)
    others = [np.ones_like(zero), rng.uniform(size=zero.shape).astype(np.float32)]
    others += [np.roll(z, shift, axis=0) for shift in range(1, options.starts - 2)]
    farthest = np.zeros(count)
    for start in others[: options.starts - 1]:
        _, landmarks, also = in_batches(solve, faces["image"], start)
        converged &= also
        distance = np.linalg.norm(landmarks - first, axis=-1).mean(axis=1) / faces["normalizer"]
        farthest = np.maximum(farthest, distance)
    errors = metrics.nme(first, faces["landmarks"].astype(np.float32), faces["normalizer"], faces["mask"])
    unique = float(np.mean(farthest[converged] < 0.01)) if converged.any() else float("nan")
    found = {"% with one equilibrium (landmarks within 1 % of the normalizer)": 100 * unique}
    found["% that did not converge from all starts"] = 100 * float(np.mean(~converged))
    found["farthest"] = float(farthest[converged].max(initial=0.0))
    return found, np.asarray(errors)


def main(options: Options, table: Table) -> None:
    for workdir in options.workdirs:
        measure(workdir, options, table)
