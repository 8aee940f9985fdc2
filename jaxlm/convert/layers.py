"""Converts tensors of PyTorch layers to Flax parameters and statistics."""

from typing import Any

import jax
import numpy as np

from jaxlm.convert.torch_weights import TorchWeights


def kernel_of(weights: TorchWeights, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Kernel (h, w, in, out) of a PyTorch convolution, which stores (out, in, h, w); `shape` is Flax's."""
    height, width, inputs, outputs = shape
    return weights.take(name, (outputs, inputs, height, width)).transpose(2, 3, 1, 0)


def conv(weights: TorchWeights, name: str, like: Any) -> dict[str, np.ndarray]:
    kernel = kernel_of(weights, f"{name}.weight", like["kernel"].shape)
    return {"kernel": kernel, "bias": weights.take(f"{name}.bias", like["bias"].shape)}


def prelu(weights: TorchWeights, name: str) -> dict[str, np.ndarray]:
    return {"negative_slope": weights.take(f"{name}.weight", (1,)).reshape(())}


def dense_layers(weights: TorchWeights, names: dict[str, str], like: Any) -> dict[str, Any]:
    layers = {}
    for layer, source in names.items():
        if layer.startswith("prelu"):
            layers[layer] = prelu(weights, source)
        else:
            kernel = weights.take(f"{source}.weight", like[layer]["kernel"].shape[::-1]).T
            layers[layer] = {"kernel": kernel, "bias": weights.take(f"{source}.bias", like[layer]["bias"].shape)}
    return layers


def batch_norm(weights: TorchWeights, name: str, shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    params = {"scale": weights.take(f"{name}.weight", shape), "bias": weights.take(f"{name}.bias", shape)}
    mean, variance = (weights.take(f"{name}.running_{kind}", shape) for kind in ("mean", "var"))
    return params, {"mean": mean, "var": variance}


def check_same_tree(ours: Any, theirs: Any) -> None:
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        raise ValueError("The layers of the released network differ from those of the network in the config.")
