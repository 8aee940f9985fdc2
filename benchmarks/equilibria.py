"""Equilibria of trained LDEQs: python benchmarks/equilibria.py --workdirs=runs/a,runs/b [--data=300w:heldout]

For each workdir, over the faces of a set of stills, or the frames of a set of videos (`--data=rendered_videos:hard`):

- evaluations of the cell until each solver meets the tolerance, the share of faces that do within 10, 15 and all steps,
  and the NME there;
- the same with the cell in bfloat16;
- spectral radius and largest singular value of the Jacobian at the equilibrium;
- from how many of several starts the same equilibrium is reached;
- the rank correlation of a face's evaluations with its error.

`--json` receives all of it.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy import stats

from jaxlm import implicit, metrics, solvers
from jaxlm.data import batches, sources, video_batches
from jaxlm.schemes import get_scheme, normalizer
from jaxlm.support.files import write_atomically
from jaxlm.support.program import one_sentence, quiet_logs
from jaxlm.systems.ldeq.system import SOLVERS, make_model
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables

WORKDIRS = flags.DEFINE_list("workdirs", None, "Folders that `jaxlm train` wrote.", required=True)
DATA = flags.DEFINE_string("data", "", "source:split of the configs; the first of eval.sets without it.")
CACHE = flags.DEFINE_string("cache", "", "Folder of the prepared data; the config's own without it.")
ROOT = flags.DEFINE_string("root", "", "Folder of the data sets; the config's own without it.")
VIDEOS = flags.DEFINE_integer("videos", 0, "Number of rendered videos; the config's own without it.")
FACES = flags.DEFINE_integer("faces", 128, "Most faces or frames.")
TOL = flags.DEFINE_float("tol", 5e-3, "Tolerance of the relative residual.")
STEPS = flags.DEFINE_integer("steps", 60, "Most evaluations of the cell.")
STARTS = flags.DEFINE_integer("starts", 8, "Starts of each face.")
JSON = flags.DEFINE_string("json", "", "File for the numbers.")
BATCH = 32


def faces_of(config: Any) -> dict[str, np.ndarray]:
    """Crops "image" (N, S, S, 3) of a set with "landmarks" in their pixels, "mask" and "normalizer"."""
    name = DATA.value or config.eval.sets[0]
    if sources.holds_videos(config, name.partition(":")[0]):
        return frames_of(config, name)
    source = sources.open_set(config, name)
    found = list(batches.eval_batches(source, config, BATCH))
    kept = {
        key: np.concatenate([batch[key] for batch in found]) for key in ("image", "landmarks", "mask", "normalizer")
    }
    indices = np.concatenate([batch["index"] for batch in found])
    chosen = np.flatnonzero(indices >= 0)
    chosen = chosen[:: -(-len(chosen) // FACES.value)]
    return {key: values[chosen] for key, values in kept.items()}


def frames_of(config: Any, name: str) -> dict[str, np.ndarray]:
    """As `faces_of`, of evenly spaced frames of videos."""
    scheme = get_scheme(config.scheme)
    (source,) = (s for s in sources.open_videos(config, name.partition(":")[0]) if s.split == name.partition(":")[2])
    found: dict[str, list[np.ndarray]] = {"image": [], "landmarks": [], "mask": [], "normalizer": []}
    for record in source.records:
        video = video_batches.video_of(record)
        settings = dict(crop=config.video.crop, size=config.image_size, chunk=len(video), min_iou=0.0)
        chunk = next(video_batches.crop_chunks([video], **settings))  # pyright: ignore[reportArgumentType]
        every = max(len(source.records) * len(video) // FACES.value, 1)
        for time in range(0, len(video), every):
            to_crop = chunk["transform"][0, time]
            points = video.landmarks[time] @ to_crop[:, :2].T + to_crop[:, 2]
            found["image"].append(chunk["image"][0, time])
            found["landmarks"].append(points)
            found["mask"].append(video.mask[time])
            length = normalizer(config.data.normalizer, scheme, points, video.mask[time], video.boxes[time])
            found["normalizer"].append(np.array(length, np.float32))
    return {key: np.stack(values)[: FACES.value] for key, values in found.items()}


def in_batches(function, *arrays):
    """`function` of pieces of the arrays, compiled once: leaves (N, ...)."""
    jitted, parts = jax.jit(function), []
    for start in range(0, len(arrays[0]), BATCH):
        piece = [array[start : start + BATCH] for array in arrays]
        count = len(piece[0])
        full = [np.concatenate([array, np.repeat(array[:1], BATCH - count, axis=0)]) for array in piece]
        parts.append([np.asarray(leaf)[:count] for leaf in jitted(*full)])
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]


def measure(workdir: str) -> dict[str, Any]:
    """Every number of one workdir, printed as well."""
    config: Any = config_file.load_config(workdir)
    if CACHE.value:
        config.data.cache = CACHE.value
    if ROOT.value:
        config.data.root = ROOT.value
    if VIDEOS.value:
        config.data.sources.rendered_videos.num_videos = VIDEOS.value
    variables, step = restore_variables(config, workdir)
    faces = faces_of(config)
    print(f"\n{workdir} at step {step}, {len(faces['image'])} faces of {DATA.value or config.eval.sets[0]}")
    found: dict[str, Any] = {"step": step, "faces": len(faces["image"]), "tol": TOL.value, "solvers": {}}
    print(
        f"{'solver':<34}{'≤ 10':>8}{'≤ 15':>8}{f'≤ {STEPS.value}':>8}{'median':>8}{'90 %':>8}{'NME %':>8}{'least':>9}"
    )
    evaluations = np.empty(0)
    for dtype in ("float32", "bfloat16"):
        for name in SOLVERS:
            row, counts = converge(config, variables, faces, name, dtype)
            found["solvers"][f"{name}, {dtype}"] = row
            shares = "".join(f"{100 * row[key]:>8.1f}" for key in ("within_10", "within_15", "within_all"))
            numbers = f"{row['median']:>8.1f}{row['ninety']:>8.1f}{row['nme']:>8.2f}{row['residual']:>9.1e}"
            print(f"{name + ', ' + dtype:<34}{shares}{numbers}", flush=True)
            evaluations = counts if (name, dtype) == ("anderson", "float32") else evaluations
    found |= spectrum(config, variables, faces) | starts(config, variables, faces)
    errors = found.pop("errors")
    finite = np.isfinite(errors)
    found["correlation"] = float(stats.spearmanr(evaluations[finite], errors[finite])[0])  # pyright: ignore[reportArgumentType]
    print(f"spectral radius {quantiles(found['spectral_radius'])}, σ_max(J) {quantiles(found['singular_value'])}")
    print(
        f"{100 * found['unique']:.1f} % of the faces have one equilibrium from {STARTS.value} starts (landmarks within "
        f"1 % of the normalizer), {100 * found['undecided']:.1f} % did not converge from all of them"
    )
    print(f"rank correlation of evaluations (Anderson) and NME {found['correlation']:.2f}")
    return found


def converge(config: Any, variables: Any, faces, name: str, dtype: str):
    """Shares that converge, evaluations, NME in percent and median least residual of one solver."""
    config = config.copy_and_resolve_references()
    config.model.dtype = dtype
    model = make_model(config)

    def solve(images):
        solver = jax.tree_util.Partial(SOLVERS[name], tol=TOL.value, max_steps=STEPS.value)
        output = model.predict(variables, images.astype(jnp.float32), solver=solver)
        assert output.stats is not None
        return output.landmarks, output.stats.best_step + 1, output.stats.residual, output.stats.converged

    landmarks, counts, residual, converged = in_batches(solve, faces["image"])
    counts = np.where(converged, counts, np.inf)
    nme = metrics.nme(landmarks, faces["landmarks"].astype(np.float32), faces["normalizer"], faces["mask"])
    row = {
        "within_10": float(np.mean(counts <= 10)),
        "within_15": float(np.mean(counts <= 15)),
        "within_all": float(np.mean(converged)),
        "median": float(np.median(counts)),
        "ninety": float(np.quantile(counts, 0.9, method="higher")),
        "nme": 100 * metrics.mean(np.asarray(nme)),
        "residual": float(np.median(residual)),
    }
    return row, np.minimum(counts, STEPS.value + 1)


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
    return {"spectral_radius": radius.tolist(), "singular_value": largest.tolist()}


def starts(config: Any, variables: Any, faces) -> dict[str, Any]:
    """Share of faces whose landmarks do not depend on z⁰: zeros, ones, noise, and equilibria of other faces."""
    model = make_model(config)

    def solve(images, z0):
        injection, _ = model.inject(variables, images.astype(jnp.float32))
        args = (variables["params"]["cell"], injection)
        z, found = solvers.anderson(lambda z: model.cell(z, args), z0, tol=1e-3, max_steps=3 * STEPS.value, image=True)
        return z, model.to_landmarks(z), found.converged

    count = len(faces["image"])
    zero = np.zeros((count, *model.initial_heatmaps(faces["image"][:1]).shape[1:]), np.float32)
    z, first, converged = in_batches(solve, faces["image"], zero)
    rng = np.random.default_rng(0)
    others = [np.ones_like(zero), rng.uniform(size=zero.shape).astype(np.float32)]
    others += [np.roll(z, shift, axis=0) for shift in range(1, STARTS.value - 2)]
    farthest = np.zeros(count)
    for start in others[: STARTS.value - 1]:
        _, landmarks, also = in_batches(solve, faces["image"], start)
        converged &= also
        distance = np.linalg.norm(landmarks - first, axis=-1).mean(axis=1) / faces["normalizer"]
        farthest = np.maximum(farthest, distance)
    errors = metrics.nme(first, faces["landmarks"].astype(np.float32), faces["normalizer"], faces["mask"])
    return {
        "unique": float(np.mean(farthest[converged] < 0.01)) if converged.any() else float("nan"),
        "undecided": float(np.mean(~converged)),
        "farthest": float(farthest[converged].max(initial=0.0)),
        "errors": np.asarray(errors),
    }


def quantiles(values: list[float]) -> str:
    low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
    return f"{low:.2f} to {high:.2f} (median {middle:.2f})"


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        results = {workdir: measure(workdir) for workdir in WORKDIRS.value}
        if JSON.value:
            write_atomically(Path(JSON.value), json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
