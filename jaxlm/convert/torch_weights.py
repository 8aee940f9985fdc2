"""Reads PyTorch weights without executing code in the file."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np


class TorchWeights:
    """Tensors of a PyTorch checkpoint file. Each has to be taken once or skipped; `finish` checks it.

    Args:
        path: file that `torch.save` wrote (`.pth`, `.pth.tar`, …).

    Attributes:
        settings: those that the file holds beside the weights, as an `argparse.Namespace` "args"; else empty.

    Raises:
        ValueError: if PyTorch is not installed, the file does not exist, or it holds anything but weights.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        try:
            import torch  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError("Reading PyTorch weights needs PyTorch: pip install 'jaxlm[torch]'.") from None
        if not self.path.is_file():
            raise ValueError(f"{self.path} does not exist.")
        try:
            # A namespace of settings beside the weights is attributes alone.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content: Any = torch.load(self.path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
            reason = (str(error).strip().splitlines() or ["empty"])[0][:160]
            raise ValueError(f"{self.path} is not a file of PyTorch weights alone ({reason}).") from None
        settings = content.get("args") if isinstance(content, dict) else None
        self.settings = dict(vars(settings)) if isinstance(settings, argparse.Namespace) else {}
        tensors = content.get("state_dict", content) if isinstance(content, dict) else {}
        if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
            raise ValueError(f"{self.path} holds no state_dict of tensors.")
        self._left = {str(name).removeprefix("module."): _numpy(tensor) for name, tensor in tensors.items()}

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


def _numpy(tensor: Any) -> np.ndarray:
    """NumPy array of a tensor; floating-point numbers of any precision become float32."""
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
