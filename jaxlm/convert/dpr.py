"""Converts the released GSRω of Shao et al., TPAMI 2021, for WFLW.

The folder holds `98_points_global_reinit.pth.tar` and `98_points_global_regress.pth.tar`. The mean face
`mean_98_face.npy` lies beside them or one folder above. The local re-initialisation network
`98_points_local_reinit.pth.tar` is optional. The released local regressor is not public, so with the local network the
regressor of the parts is untrained: it changes no landmark until it is trained.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm import systems
from jaxlm.convert.layers import batch_norm, check_same_tree, conv, dense_layers, kernel_of, prelu
from jaxlm.convert.torch_weights import TorchWeights
from jaxlm.support.numpy_files import read_npy
from jaxlm.systems import TrainState
from jaxlm.systems.reinit.settings import Config

_DPR = ("98_points_global_reinit.pth.tar", "98_points_global_regress.pth.tar", "98_points_local_reinit.pth.tar")


_CROP, _FACE, _PATCH = 128, 256, 128  # pixels of the released crop, normalised face and parts


def convert_dpr(folder: Path, config: Config) -> tuple[Config, TrainState]:
    """Reads the released GSRω and, if the folder holds it, the local re-initialisation network.

    Args:
        folder: folder of the `.pth.tar` files.
        config: `configs/reinit_wflw.py:released`.

    Returns:
        The config of the converted network, and its state with the released weights.

    Raises:
        ValueError: if a file is missing, or a tensor is missing, left over or of another shape; the message names it.
    """
    reinit, regress, local = (folder / name for name in _DPR)
    config = config.copy_and_resolve_references()
    config.model.refine = "network" if local.is_file() else "none"
    state = jax.device_get(systems.initialize(systems.build(config), jax.random.key(config.seed)))
    params, statistics = dict(state.params), dict(state.batch_stats)
    params["reinit"] = _localization(TorchWeights(reinit), params["reinit"])
    params["regressor"], statistics["regressor"] = _regressor(
        TorchWeights(regress), params["regressor"], statistics["regressor"]
    )
    statistics["mean_shape"] = _mean_face(folder, config)
    if local.is_file():
        params["local_reinit"] = _local_reinit(TorchWeights(local), params["local_reinit"])
    live = {"params": params, "batch_stats": statistics}
    return config, state._replace(**live, ema=live)


def _localization(weights: TorchWeights, like: Any) -> Any:
    """Parameters of the localisation network; its head's matrix is converted from pixels to [−1, 1]."""
    params = {}
    for number, layer in enumerate((0, 3, 5, 8, 10, 13)):
        params[f"conv{number}"] = conv(weights, f"localization.{layer}", like[f"conv{number}"])
    for number, layer in enumerate((2, 4, 7, 9, 12, 14)):
        params[f"prelu{number}"] = prelu(weights, f"localization.{layer}")
    names = {"dense0": "fc_loc.0", "prelu0": "fc_loc.1", "last": "fc_loc.2"}
    head = dense_layers(weights, names, like["head"]["fc"])
    weights.finish()
    # The released matrix maps p' = A p + 128 t between pixels of 128 × 128 images. The normalised image is then
    # enlarged by 2 about its first pixel. The units are p = 64 (u + 1) − ½ and u' = (2 · 2p' + 1)/256 − 1.
    head["last"] = _matrix_in_units(head["last"], linear=1.0, shift=1.0 - 1.0 / _CROP, constant=1.0 / _FACE - 1.0)
    return {**params, "head": {"fc": head}}


def _local_reinit(weights: TorchWeights, like: Any) -> Any:
    """Parameters of the three fully connected layers of each part.

    The released layers read landmarks in pixels of the 256 × 256 normalised face; they are converted to [−1, 1].
    """
    params = {}
    for number, part in enumerate(("left_eye", "right_eye", "nose", "mouth")):
        names = {
            f"{kind}{i}": f"{part}_net.{2 * i + (kind == 'prelu')}" for i in range(2) for kind in ("dense", "prelu")
        }
        head = dense_layers(weights, names | {"last": f"{part}_net.4"}, like[f"part{number}"]["fc"])
        first = head["dense0"]  # p = 128 (u + 1) − ½
        half = _FACE / 2
        offset = (half - 0.5) * first["kernel"].sum(axis=0)
        head["dense0"] = {"kernel": half * first["kernel"], "bias": first["bias"] + offset}
        # The released matrix maps q = A p + 128 t from pixels of the face to those of a 128 × 128 patch.
        ratio = _FACE / _PATCH
        constant = 1.0 / _PATCH - 1.0
        head["last"] = _matrix_in_units(head["last"], linear=ratio, shift=ratio - 1.0 / _PATCH, constant=constant)
        params[f"part{number}"] = {"fc": head}
    weights.finish()
    return params


def _matrix_in_units(layer: dict[str, np.ndarray], *, linear: float, shift: float, constant: float) -> dict[str, Any]:
    """Last layer that gives (linear·A, shift·A·1 + 2t + constant) where the released one gives (A, t).

    The identity is subtracted, because the network adds it to the layer's output.
    """
    rows = []
    for values in (layer["kernel"], layer["bias"][None]):
        a = values.reshape(len(values), 2, 3).astype(np.float64)
        offset = shift * a[:, :, :2].sum(axis=2) + 2.0 * a[:, :, 2]
        rows.append(np.concatenate([linear * a[:, :, :2], offset[:, :, None]], axis=2).reshape(len(values), 6))
    kernel, bias = rows[0], rows[1][0]
    bias = bias + np.array([0.0, 0.0, constant, 0.0, 0.0, constant]) - np.eye(2, 3).ravel()
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _regressor(weights: TorchWeights, like: Any, statistics: Any) -> tuple[Any, Any]:
    """Parameters and batch statistics of the small MobileNetV2 and of its fully connected layers."""
    blocks = [name for name in like["trunk"] if name.startswith("row")]
    blocks.sort(key=lambda name: tuple(map(int, name.removeprefix("row").split("_"))))
    trunk, stats = {}, {}

    def norm(name: str, source: str, target: Any, target_stats: Any, shapes: Any) -> None:
        target[name], target_stats[name] = batch_norm(weights, source, shapes[name]["scale"].shape)

    trunk["stem"] = {"kernel": kernel_of(weights, "features.0.0.weight", like["trunk"]["stem"]["kernel"].shape)}
    norm("stem_norm", "features.0.1", trunk, stats, like["trunk"])
    for number, block in enumerate(blocks, start=1):
        shapes, params, running = like["trunk"][block], {}, {}
        layers = [layer for layer in ("expand", "depthwise", "project") if layer in shapes]
        for layer, place in zip(layers, (0, 3, 6), strict=False):
            source = f"features.{number}.conv.{place}.weight"
            shape = shapes[layer]["kernel"].shape
            if layer == "depthwise":
                params[layer] = {"kernel": kernel_of(weights, source, shape)}
            else:
                params[layer] = {"kernel": kernel_of(weights, source, (1, 1, *shape))[0, 0]}
            norm(f"{layer}_norm", f"features.{number}.conv.{place + 1}", params, running, shapes)
        trunk[block], stats[block] = params, running
    last = len(blocks) + 1
    shape = like["trunk"]["last"]["kernel"].shape
    trunk["last"] = {"kernel": kernel_of(weights, f"features.{last}.0.weight", (1, 1, *shape))[0, 0]}
    norm("last_norm", f"features.{last}.1", trunk, stats, like["trunk"])
    names = {"dense0": "pts_net.0", "prelu0": "pts_net.1", "dense1": "pts_net.2", "prelu1": "pts_net.3"}
    head = dense_layers(weights, names | {"last": "pts_net.4"}, like["head"])
    weights.skip("num_batches_tracked")
    weights.finish()
    check_same_tree({"trunk": stats}, statistics)
    return {"trunk": trunk, "head": head}, {"trunk": stats}


def _mean_face(folder: Path, config: Config) -> np.ndarray:
    """Mean shape (98, 2) of the system, from the released file, which holds fractions of the normalised face's side."""
    places = [parent / "mean_98_face.npy" for parent in (folder, folder.parent)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"{places[0]} does not exist, nor does {places[1]}: copy it from the release of the weights.")
    try:
        mean = read_npy(path).reshape(98, 2)
    except ValueError as error:
        raise ValueError(f"{path} must hold the mean face of 98 points ({error}).") from None
    # Fraction m is pixel p = 256 m of the normalised face, here in [−1, 1]. The network divides by the margin.
    return (config.model.margin * ((2.0 * _FACE * mean + 1.0) / _FACE - 1.0)).astype(np.float32)
