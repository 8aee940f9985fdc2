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

from typing import Any

import jax
import numpy as np

from jaxlm.convert.torch_weights import TorchWeights


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
