"""A data set, a loss and a system of one's own: what docs/extending.md explains, and tests/test_extending.py runs."""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxlm import losses, metrics, systems
from jaxlm.data import sources
from jaxlm.data.builder import FaceBuilder
from jaxlm.data.samples import Sample
from jaxlm.schemes import get_scheme
from jaxlm.support.errors import BadSample
from jaxlm.systems import Prediction, System, TrainState, initial_state
from jaxlm.systems.objective import make_loss
from jaxlm.systems.optim import apply_gradients, make_optimizer, make_schedule


class JsonLines(FaceBuilder):
    """A data set: `faces.jsonl`, a line {"image": "a.png", "points": [[x, y], …]} for each face; 0-based pixels."""

    def annotation_files(self) -> list[Path]:
        return [self.root / "faces.jsonl"]

    def published_splits(self):
        return {"train": self._read(self.root / "faces.jsonl")}

    def _read(self, path: Path):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            where = f"{path}, line {number}"
            try:
                face = json.loads(line)
                points = np.array(face["points"], np.float64)
            except (ValueError, KeyError) as error:
                yield BadSample(f"{where}: {error!r}; expected an image and its points.")
                continue
            yield Sample(path.parent / face["image"], points, where, key=face["image"])


def huber(
    pred: Float[Array, "*S"], target: Float[Array, "*S"], mask: Bool[Array, "*S"], *, delta: float = 0.01
) -> Float[Array, "*S"]:
    """A loss: elementwise, unreduced; its options are keywords, and `mask` may be left out."""
    del mask
    error = jnp.abs(pred - target)
    return jnp.where(error < delta, 0.5 * error**2 / delta, error - 0.5 * delta)


class Linear(nn.Module):
    """A network: landmarks as a linear function of a small grey picture."""

    num_landmarks: int

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B K 2"]:
        small = jax.image.resize(images.mean(axis=-1) / 255 - 0.5, (images.shape[0], 8, 8), "linear")
        found = nn.Dense(2 * self.num_landmarks, name="dense")(small.reshape(-1, 64))
        return (0.5 + found.reshape(-1, self.num_landmarks, 2)) * images.shape[1]


def build(config: Any) -> System:
    """A system: `init`, `train_step` and `predict`, pure functions."""
    network = Linear(get_scheme(config.scheme).num_landmarks)
    optimizer = make_optimizer(config.optim, make_schedule(config.optim, config.train.num_steps))
    elementwise = make_loss(config.loss, losses.LANDMARK_LOSSES)

    def apply(params, images: Array) -> Array:
        found: Array = network.apply({"params": params}, images.astype(jnp.float32))  # pyright: ignore
        return found

    def init(rng: Array) -> TrainState:
        params = network.init(rng, jnp.zeros((1, config.image_size, config.image_size, 3)))["params"]
        return initial_state({"params": params, "batch_stats": {}}, optimizer)

    def train_step(state: TrainState, batch: dict[str, Array], rng: Array):
        del rng

        def loss_of(params):
            landmarks, mask = apply(params, batch["image"]), batch["mask"]
            both = jnp.broadcast_to(mask[..., None], landmarks.shape)
            values = elementwise(landmarks / config.image_size, batch["landmarks"] / config.image_size, both)
            return losses.masked_mean(values.sum(axis=-1), mask), landmarks

        (loss, landmarks), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        state, grad_norm = apply_gradients(optimizer, config.optim.ema, state, gradient, {})
        error = metrics.nme(landmarks, batch["landmarks"], batch["normalizer"], batch["mask"])
        return state, {"loss": loss, "grad_norm": grad_norm, "nme": jnp.nanmean(error)}

    def predict(variables, images: Array) -> Prediction:
        landmarks = apply(variables["params"], images)
        return Prediction(landmarks, jnp.ones(landmarks.shape[:2]), {})

    return System(init, train_step, predict)


def register() -> None:
    """Makes the names known that a config uses: its sources' `builder`, `loss.name` and `system`."""
    sources.BUILDERS["json_lines"] = JsonLines
    losses.LANDMARK_LOSSES["huber"] = huber
    systems.SYSTEMS["linear"] = __name__  # the module that holds `build`
