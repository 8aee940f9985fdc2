"""Released weights into a workdir that train.py, eval.py, prediction and export take like any other.

    python -m jaxlm.convert dpr weights/ --workdir=runs/dpr
    python eval.py --workdir=runs/dpr --data=own --root=wflw_samples
    python -m jaxlm.convert tddfa_v2 tddfa_v2/ --workdir=runs/mb05
    python eval.py --workdir=runs/mb05 --data=aflw2000 --root=AFLW2000

`dpr` is the GSRω of Shao et al., TPAMI 2021, for WFLW: the files `98_points_global_reinit.pth.tar` and
`98_points_global_regress.pth.tar`, the mean face `mean_98_face.npy` beside or above them and, where it is there, the
local re-initialisation network `98_points_local_reinit.pth.tar`. The released local regressor is not public, so with
the local network the regressor of the parts starts from nothing (it changes no landmark until it is trained).

`tddfa_v2` is a MobileNet of Guo et al., ECCV 2020: the folder holds `mb05_120x120.pth` or `mb1_120x120.pth`, the
parameters' statistics `param_mean_std_62d_120x120.pkl` and the face model, `bfm_noneck_v3.pkl` (with `tri.pkl`) or the
68 landmark vertices alone, `bfm68.npz`. The landmark branch is left out: nothing is known of its unit.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from jaxlm import systems
from jaxlm.config import Config, load_config_file
from jaxlm.support.program import one_sentence, quiet_logs
from jaxlm.systems import TrainState
from jaxlm.torch_weights import TorchWeights
from jaxlm.workdir.checkpoints import Checkpoints
from jaxlm.workdir.config_file import checkpoint_exists, write_config

_DPR = ("98_points_global_reinit.pth.tar", "98_points_global_regress.pth.tar", "98_points_local_reinit.pth.tar")
_CROP, _FACE, _PATCH = 128, 256, 128  # pixels of the released crop, normalised face and parts


def convert_dpr(folder: Path, config: Config) -> tuple[Config, TrainState]:
    """The released GSRω, and its local re-initialisation network where the folder holds it.

    Args:
        folder: of the `.pth.tar` files.
        config: `configs/reinit_wflw.py:released`.

    Returns:
        The config of what was read, and its state.

    Raises:
        ValueError: naming a file that is missing, or a tensor that is left over or does not fit.
    """
    reinit, regress, local = (folder / name for name in _DPR)
    config = config.copy_and_resolve_references()
    config.model.refine = "network" if local.is_file() else "none"
    state = jax.device_get(jax.jit(systems.build(config).init)(jax.random.key(config.seed)))
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
    """Convolutions, and the head whose matrix is in pixels."""
    params = {}
    for number, layer in enumerate((0, 3, 5, 8, 10, 13)):
        params[f"conv{number}"] = _conv(weights, f"localization.{layer}", like[f"conv{number}"])
    for number, layer in enumerate((2, 4, 7, 9, 12, 14)):
        params[f"prelu{number}"] = _prelu(weights, f"localization.{layer}")
    names = {"dense0": "fc_loc.0", "prelu0": "fc_loc.1", "last": "fc_loc.2"}
    head = _dense_layers(weights, names, like["head"]["fc"])
    weights.finish()
    # p' = A p + 128 t between pixels of 128 × 128 images, and the normalised image is then enlarged by 2 about its
    # first pixel: with p = 64 (u + 1) − ½ and u' = (2 · 2p' + 1)/256 − 1.
    head["last"] = _matrix_in_units(head["last"], linear=1.0, shift=1.0 - 1.0 / _CROP, constant=1.0 / _FACE - 1.0)
    return {**params, "head": {"fc": head}}


def _local_reinit(weights: TorchWeights, like: Any) -> Any:
    """Three fully connected layers for each part; they read the face in pixels of the 256 × 256 normalised face."""
    params = {}
    for number, part in enumerate(("left_eye", "right_eye", "nose", "mouth")):
        names = {
            f"{kind}{i}": f"{part}_net.{2 * i + (kind == 'prelu')}" for i in range(2) for kind in ("dense", "prelu")
        }
        head = _dense_layers(weights, names | {"last": f"{part}_net.4"}, like[f"part{number}"]["fc"])
        first = head["dense0"]  # p = 128 (u + 1) − ½
        half = _FACE / 2
        offset = (half - 0.5) * first["kernel"].sum(axis=0)
        head["dense0"] = {"kernel": half * first["kernel"], "bias": first["bias"] + offset}
        # q = A p + 128 t between pixels of the face and of a 128 × 128 patch.
        ratio = _FACE / _PATCH
        constant = 1.0 / _PATCH - 1.0
        head["last"] = _matrix_in_units(head["last"], linear=ratio, shift=ratio - 1.0 / _PATCH, constant=constant)
        params[f"part{number}"] = {"fc": head}
    weights.finish()
    return params


def _matrix_in_units(layer: dict[str, np.ndarray], *, linear: float, shift: float, constant: float) -> dict[str, Any]:
    """A last layer that gave (A, t) gives (linear·A, shift·A·1 + 2t + constant) instead, less the identity."""
    rows = []
    for values in (layer["kernel"], layer["bias"][None]):
        a = values.reshape(len(values), 2, 3).astype(np.float64)
        offset = shift * a[:, :, :2].sum(axis=2) + 2.0 * a[:, :, 2]
        rows.append(np.concatenate([linear * a[:, :, :2], offset[:, :, None]], axis=2).reshape(len(values), 6))
    kernel, bias = rows[0], rows[1][0]
    bias = bias + np.array([0.0, 0.0, constant, 0.0, 0.0, constant]) - np.eye(2, 3).ravel()
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _regressor(weights: TorchWeights, like: Any, statistics: Any) -> tuple[Any, Any]:
    """Small MobileNetV2 and its fully connected layers."""
    blocks = [name for name in like["trunk"] if name.startswith("row")]
    blocks.sort(key=lambda name: tuple(map(int, name.removeprefix("row").split("_"))))
    trunk, stats = {}, {}

    def norm(name: str, source: str, target: Any, target_stats: Any, shapes: Any) -> None:
        target[name], target_stats[name] = _batch_norm(weights, source, shapes[name]["scale"].shape)

    trunk["stem"] = {"kernel": _kernel(weights, "features.0.0.weight", like["trunk"]["stem"]["kernel"].shape)}
    norm("stem_norm", "features.0.1", trunk, stats, like["trunk"])
    for number, block in enumerate(blocks, start=1):
        shapes, params, running = like["trunk"][block], {}, {}
        layers = [layer for layer in ("expand", "depthwise", "project") if layer in shapes]
        for layer, place in zip(layers, (0, 3, 6), strict=False):
            source = f"features.{number}.conv.{place}.weight"
            shape = shapes[layer]["kernel"].shape
            if layer == "depthwise":
                params[layer] = {"kernel": _kernel(weights, source, shape)}
            else:
                params[layer] = {"kernel": _kernel(weights, source, (1, 1, *shape))[0, 0]}
            norm(f"{layer}_norm", f"features.{number}.conv.{place + 1}", params, running, shapes)
        trunk[block], stats[block] = params, running
    last = len(blocks) + 1
    shape = like["trunk"]["last"]["kernel"].shape
    trunk["last"] = {"kernel": _kernel(weights, f"features.{last}.0.weight", (1, 1, *shape))[0, 0]}
    norm("last_norm", f"features.{last}.1", trunk, stats, like["trunk"])
    names = {"dense0": "pts_net.0", "prelu0": "pts_net.1", "dense1": "pts_net.2", "prelu1": "pts_net.3"}
    head = _dense_layers(weights, names | {"last": "pts_net.4"}, like["head"])
    weights.skip("num_batches_tracked")
    weights.finish()
    _check_same_tree({"trunk": stats}, statistics)
    return {"trunk": trunk, "head": head}, {"trunk": stats}


def _mean_face(folder: Path, config: Config) -> np.ndarray:
    """The mean face, fractions of the normalised face's side, as this system keeps it."""
    places = [parent / "mean_98_face.npy" for parent in (folder, folder.parent)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"{places[0]} does not exist, nor does it one folder up: it is released with the weights.")
    try:
        mean = np.load(path, allow_pickle=False).reshape(98, 2)
    except ValueError as error:
        raise ValueError(f"{path} is not the mean face of 98 points ({error}).") from None
    # Pixel p = 256 m of the normalised face, in [−1, 1], and the margin that the network takes off again.
    return (config.model.margin * ((2.0 * _FACE * mean + 1.0) / _FACE - 1.0)).astype(np.float32)


def _kernel(weights: TorchWeights, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Torch's (out, in, h, w) as (h, w, in, out)."""
    height, width, inputs, outputs = shape
    return weights.take(name, (outputs, inputs, height, width)).transpose(2, 3, 1, 0)


def _conv(weights: TorchWeights, name: str, like: Any) -> dict[str, np.ndarray]:
    kernel = _kernel(weights, f"{name}.weight", like["kernel"].shape)
    return {"kernel": kernel, "bias": weights.take(f"{name}.bias", like["bias"].shape)}


def _prelu(weights: TorchWeights, name: str) -> dict[str, np.ndarray]:
    return {"negative_slope": weights.take(f"{name}.weight", (1,)).reshape(())}


def _dense_layers(weights: TorchWeights, names: dict[str, str], like: Any) -> dict[str, Any]:
    layers = {}
    for layer, source in names.items():
        if layer.startswith("prelu"):
            layers[layer] = _prelu(weights, source)
        else:
            kernel = weights.take(f"{source}.weight", like[layer]["kernel"].shape[::-1]).T
            layers[layer] = {"kernel": kernel, "bias": weights.take(f"{source}.bias", like[layer]["bias"].shape)}
    return layers


def _batch_norm(weights: TorchWeights, name: str, shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    params = {"scale": weights.take(f"{name}.weight", shape), "bias": weights.take(f"{name}.bias", shape)}
    mean, variance = (weights.take(f"{name}.running_{kind}", shape) for kind in ("mean", "var"))
    return params, {"mean": mean, "var": variance}


def _check_same_tree(ours: Any, theirs: Any) -> None:
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        raise ValueError("The released network has other layers than this one.")


def convert_tddfa(folder: Path, config: Config) -> tuple[Config, TrainState]:
    """A released MobileNet of 3DDFA_V2.

    Args:
        folder: of the `.pth` file, the statistics and the face model.
        config: `configs/tddfa_300wlp.py:released`.

    Returns:
        The config of what was read, and its state.

    Raises:
        ValueError: naming a file that is missing, or a tensor that is left over or does not fit.
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
    config.loss.name = "fwpdc"  # to go on from, with one branch
    state = jax.device_get(jax.jit(systems.build(config).init)(jax.random.key(config.seed)))
    weights = TorchWeights(folder / found[0])
    weights.skip("num_batches_tracked")
    weights.skip("fc_lm.weight")
    weights.skip("fc_lm.bias")
    like, trunk, statistics = state.params["trunk"], {}, {}

    def norm(source: str, shapes: Any) -> tuple[Any, Any]:
        return _batch_norm(weights, source, shapes["scale"].shape)

    trunk["conv1"] = {"kernel": _kernel(weights, "conv1.weight", like["conv1"]["kernel"].shape)}
    trunk["bn1"], statistics["bn1"] = norm("bn1", like["bn1"])
    for block in sorted(name for name in like if name.startswith("dw")):
        shapes = like[block]
        separable = (1, 1, *shapes["conv_sep"]["kernel"].shape)
        params, running = (
            {
                "conv_dw": {"kernel": _kernel(weights, f"{block}.conv_dw.weight", shapes["conv_dw"]["kernel"].shape)},
                "conv_sep": {"kernel": _kernel(weights, f"{block}.conv_sep.weight", separable)[0, 0]},
            },
            {},
        )
        for name in ("bn_dw", "bn_sep"):
            params[name], running[name] = norm(f"{block}.{name}", shapes[name])
        trunk[block], statistics[block] = params, running
    names = {"fc_param": "fc_param"}
    params = {"trunk": trunk, **_dense_layers(weights, names, state.params)}
    weights.finish()
    stats = {**state.batch_stats, "trunk": statistics}
    _check_same_tree(params, state.params)
    _check_same_tree(stats, state.batch_stats)
    live = {"params": params, "batch_stats": stats}
    return config, state._replace(**live, ema=live)


CONVERTERS: dict[str, tuple[str, Callable[[Path, Config], tuple[Config, TrainState]]]] = {
    "dpr": ("reinit_wflw.py:released", convert_dpr),
    "tddfa_v2": ("tddfa_300wlp.py:released", convert_tddfa),
}


def convert(name: str, files: Path, workdir: Path, config: Config | None = None) -> Config:
    """Writes a workdir with the released weights as its checkpoint of step 0.

    Args:
        name: key of `CONVERTERS`.
        files: folder of the released files.
        workdir: to write; must not hold checkpoints.
        config: to use instead of the repository's for these weights.

    Returns:
        The config.

    Raises:
        ValueError: for an unknown name, files that do not fit, or a workdir that is in use.
    """
    if name not in CONVERTERS:
        raise ValueError(f"There is no converter {name!r}; choose one of {', '.join(CONVERTERS)}.")
    if checkpoint_exists(workdir):
        raise ValueError(f"{workdir} holds checkpoints already; choose another --workdir.")
    config_file, converter = CONVERTERS[name]
    config, state = converter(files, config or load_config_file(config_file))
    write_config(workdir, config)
    checkpoints = Checkpoints(workdir)
    try:
        checkpoints.save(0, state, {}, {})
    finally:
        checkpoints.close()
    return config


def main(argv):
    quiet_logs()
    with one_sentence():
        if len(argv) != 3:
            raise ValueError(f"Usage: python -m jaxlm.convert <{'|'.join(CONVERTERS)}> <folder> --workdir=<folder>")
        workdir = Path(WORKDIR.value).expanduser()
        config = convert(argv[1], Path(argv[2]).expanduser(), workdir)
        model = ", ".join(f"{name} {config.model[name]}" for name in ("backbone", "refine") if name in config.model)
        print(f"written: {workdir} ({config.system}, {config.scheme}, {model})")


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder to write.", required=True)
    app.run(main)
