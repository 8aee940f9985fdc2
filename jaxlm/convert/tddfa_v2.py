"""Converts a released MobileNet of 3DDFA_V2 (Guo et al., ECCV 2020).

The folder holds `mb05_120x120.pth` or `mb1_120x120.pth`, the parameters' statistics `param_mean_std_62d_120x120.pkl`,
and the face model: `bfm_noneck_v3.pkl` (with `tri.pkl`), or `bfm68.npz` with the 68 landmark vertices only. The
landmark branch is left out, because its unit is not known.
"""

from pathlib import Path
from typing import Any

import jax

from jaxlm import systems
from jaxlm.convert.layers import batch_norm, check_same_tree, dense_layers, kernel_of
from jaxlm.convert.torch_weights import TorchWeights
from jaxlm.systems import TrainState
from jaxlm.systems.tddfa.settings import Config


def convert_tddfa(folder: Path, config: Config) -> tuple[Config, TrainState]:
    """Reads a released MobileNet of 3DDFA_V2.

    Args:
        folder: folder of the `.pth` file, the statistics and the face model.
        config: `configs/tddfa_300wlp.py:released`.

    Returns:
        The config of the converted network, and its state with the released weights.

    Raises:
        ValueError: if a file is missing, or a tensor is missing, left over or of another shape; the message names it.
    """
    backbones = {"mb05_120x120.pth": "mobilenet_0.5", "mb1_120x120.pth": "mobilenet_1"}
    found = [name for name in backbones if (folder / name).is_file()]
    if len(found) != 1:
        raise ValueError(
            f"{folder} must hold one of {', '.join(backbones)}, and holds {' and '.join(found) or 'none'}."
        )
    models = [name for name in ("bfm_noneck_v3.pkl", "bfm68.npz") if (folder / name).is_file()]
    if not models:
        raise ValueError(f"{folder} holds no face model: neither bfm_noneck_v3.pkl nor bfm68.npz.")
    config = config.copy_and_resolve_references()
    config.model.backbone = backbones[found[0]]
    config.data.root = str(folder.resolve())
    config.morphable.path = models[0]
    config.loss.name = "fwpdc"  # for continued training with one branch
    state = jax.device_get(systems.initialize(systems.build(config), jax.random.key(config.seed)))
    weights = TorchWeights(folder / found[0])
    weights.skip("num_batches_tracked")
    weights.skip("fc_lm.weight")
    weights.skip("fc_lm.bias")
    like, trunk, statistics = state.params["trunk"], {}, {}

    def norm(source: str, shapes: Any) -> tuple[Any, Any]:
        return batch_norm(weights, source, shapes["scale"].shape)

    trunk["conv1"] = {"kernel": kernel_of(weights, "conv1.weight", like["conv1"]["kernel"].shape)}
    trunk["bn1"], statistics["bn1"] = norm("bn1", like["bn1"])
    for block in sorted(name for name in like if name.startswith("dw")):
        shapes = like[block]
        separable = (1, 1, *shapes["conv_sep"]["kernel"].shape)
        params, running = (
            {
                "conv_dw": {"kernel": kernel_of(weights, f"{block}.conv_dw.weight", shapes["conv_dw"]["kernel"].shape)},
                "conv_sep": {"kernel": kernel_of(weights, f"{block}.conv_sep.weight", separable)[0, 0]},
            },
            {},
        )
        for name in ("bn_dw", "bn_sep"):
            params[name], running[name] = norm(f"{block}.{name}", shapes[name])
        trunk[block], statistics[block] = params, running
    names = {"fc_param": "fc_param"}
    params = {"trunk": trunk, **dense_layers(weights, names, state.params)}
    weights.finish()
    stats = {**state.batch_stats, "trunk": statistics}
    check_same_tree(params, state.params)
    check_same_tree(stats, state.batch_stats)
    live = {"params": params, "batch_stats": stats}
    return config, state._replace(**live, ema=live)
