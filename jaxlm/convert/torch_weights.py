"""Weights of PyTorch networks, each of which a conversion has to take."""

import argparse
from pathlib import Path

import numpy as np

from jaxlm.convert import torch_files


class TorchWeights:
    """Tensors of a PyTorch checkpoint file. Each has to be taken once or skipped; `finish` checks it.

    Args:
        path: file that `torch.save` wrote (`.pth`, `.pth.tar`, …).

    Attributes:
        settings: those that the file holds beside the weights, as an `argparse.Namespace` "args"; else empty.

    Raises:
        ValueError: if the file does not exist, or it holds anything but weights.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        content = torch_files.load(self.path)
        settings = content.get("args") if isinstance(content, dict) else None
        self.settings = dict(vars(settings)) if isinstance(settings, argparse.Namespace) else {}
        tensors = content.get("state_dict", content) if isinstance(content, dict) else {}
        if not isinstance(tensors, dict) or not tensors or not all(isinstance(t, np.ndarray) for t in tensors.values()):
            raise ValueError(f"{self.path} holds no state_dict of tensors.")
        self._left = {str(name).removeprefix("module."): _float32(tensor) for name, tensor in tensors.items()}

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the tensor `name` and counts it as taken.

        Raises:
            ValueError: if there is no tensor of this name, or it has another shape.
        """
        if self.shape_of(name) != shape:
            raise ValueError(f"{self.path}: {name} is {self.shape_of(name)} where the network needs {shape}.")
        return np.asarray(self._left.pop(name))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor `name`, which stays to be taken.

        Raises:
            ValueError: if there is no tensor of this name.
        """
        if name not in self._left:
            raise ValueError(f"{self.path} has no tensor {name!r}: it holds the weights of another network.")
        return self._left[name].shape

    def skip(self, suffix: str) -> None:
        """Discards the tensors whose names end in `suffix`, because the converted network has no use for them."""
        self._left = {name: tensor for name, tensor in self._left.items() if not name.endswith(suffix)}

    def finish(self) -> None:
        """Raises ValueError if tensors remain that were neither taken nor skipped; the message names them."""
        if self._left:
            names = sorted(self._left)
            raise ValueError(
                f"{self.path} has {len(names)} tensors that the network does not: {', '.join(names[:4])}"
                f"{', …' if len(names) > 4 else ''}."
            )


def _float32(tensor: np.ndarray) -> np.ndarray:
    """The tensor, with floating-point numbers of any precision as float32."""
    return tensor.astype(np.float32, copy=False) if tensor.dtype.kind == "f" else tensor
