"""Converts a released LDEQ (Micaelli et al., CVPR 2023).

The folder holds one file of weights, `*.pth.tar`, whose state dict has the layout of the authors' program. Its sizes
are read from the tensors and have to be those of a preset. Where the released model differs from this package's,
`config.model.released` keeps its own: cell c of a heatmap is image pixel 4c, and group norm has ε 1e-5. Its Anderson
solver evaluates the cell 12 times for "10 steps" and has a ridge of 1e-4 that is not relative to the residuals; both
solvers stop at the same equilibrium.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm import systems
from jaxlm.convert.layers import batch_norm, check_same_tree, conv
from jaxlm.convert.torch_weights import TorchWeights
from jaxlm.schemes import get_scheme
from jaxlm.systems import TrainState
from jaxlm.systems.ldeq.network import PRESETS
from jaxlm.systems.ldeq.settings import Config

_CELL = "deq_layer.cell"


def convert_ldeq(folder: Path, config: Config) -> tuple[Config, TrainState]:
    """Reads a released LDEQ.

    Args:
        folder: folder of the `.pth.tar` file.
        config: `configs/ldeq_wflw.py:released`.

    Returns:
        The config of the converted network, and its state with the released weights.

    Raises:
        ValueError: if there is not one file, its sizes are not those of a preset, or a tensor is missing, left over or
            of another shape; the message names it.
    """
    found = sorted(folder.glob("*.pth*"))
    if len(found) != 1:
        raise ValueError(f"{folder} must hold one file of weights (*.pth.tar), and holds {len(found)}.")
    weights = TorchWeights(found[0])
    config = config.copy_and_resolve_references()
    config.model.preset = _preset(weights, get_scheme(config.scheme).num_landmarks, found[0])
    beta = weights.settings.get("cell_softargmax_beta")
    if beta is not None:
        config.model.temperature = 1 / float(beta)
    state = jax.device_get(systems.initialize(systems.build(config), jax.random.key(config.seed)))
    weights.skip("num_batches_tracked")
    like, levels = state.params["cell"], PRESETS[config.model.preset]["depth"]
    stem, statistics = {}, {}
    for index, name in zip((0, 1, 3), ("conv_0", "conv_1", "conv_2"), strict=True):
        shapes = state.params["stem"][name]
        norm, running = batch_norm(weights, f"tail.{index}.norm", shapes["norm"]["scale"].shape)
        stem[name] = {"conv": conv(weights, f"tail.{index}.conv", shapes["conv"]), "norm": norm}
        statistics[name] = {"norm": running}

    def block(source: str, shapes: Any) -> dict[str, Any]:
        scale, bias = (
            weights.take(f"{source}.norm.{kind}", shapes["norm"]["scale"].shape) for kind in ("weight", "bias")
        )
        return {"conv": conv(weights, f"{source}.conv", shapes["conv"]), "norm": {"scale": scale, "bias": bias}}

    hourglass = {
        name: block(f"{_CELL}.hourglass.{source}", like["hourglass"][name]) for name, source in _names(levels).items()
    }
    for level in range(levels):  # the released network has the skip before the path from below
        _exchange(hourglass[f"merge_{level}"]["conv"], hourglass[f"skip_{level}"]["conv"]["bias"].shape[0])
    enter = block(f"{_CELL}.tail", like["enter"])
    _exchange(enter["conv"], like["exit"]["bias"].shape[0])  # and the heatmaps before the image's features
    params = {
        "stem": stem,
        "cell": {"enter": enter, "hourglass": hourglass, "exit": conv(weights, f"{_CELL}.head.conv", like["exit"])},
    }
    weights.finish()
    check_same_tree(params, state.params)
    check_same_tree(statistics, state.batch_stats)
    live = {"params": params, "batch_stats": statistics}
    return config, state._replace(**live, ema=live)


def _names(levels: int) -> dict[str, str]:
    """Block of our hourglass -> block of the released one, which counts those of the same level through both ways."""
    names = {"bottom": "bottlneck"}
    for level in range(levels):
        up = levels - level  # 1 at the bottom
        names |= {
            f"skip_{level}": f"same{level + 1}",
            f"down_{level}": f"upchan{level + 1}",
            f"up_{level}": f"downchan{2 * up - 1}",
            f"merge_{level}": f"downchan{2 * up}",
            f"refine_{level}": f"same{levels + up}",
        }
    return names


def _exchange(layer: dict[str, np.ndarray], first: int) -> None:
    """Moves the first input channels of a 1×1 convolution behind the others."""
    layer["kernel"] = np.concatenate([layer["kernel"][:, :, first:], layer["kernel"][:, :, :first]], axis=2)


def _preset(weights: TorchWeights, landmarks: int, path: Path) -> str:
    width, inputs = weights.shape_of(f"{_CELL}.tail.conv.weight")[:2]
    heatmaps = weights.shape_of(f"{_CELL}.head.conv.weight")[0]
    if heatmaps != landmarks:
        raise ValueError(f"{path} has {heatmaps} landmarks where the config has {landmarks}; choose its scheme.")
    growth = weights.shape_of(f"{_CELL}.hourglass.upchan1.conv.weight")[0] - width
    sizes = dict(channels=inputs - landmarks, width=width, growth=growth, depth=4)
    for name, preset in PRESETS.items():
        if preset == sizes:
            return name
    known = "; ".join(f"{name}: {preset}" for name, preset in PRESETS.items() if preset["depth"] == 4)
    raise ValueError(f"{path} has the sizes {sizes}, which no preset has ({known}).")
