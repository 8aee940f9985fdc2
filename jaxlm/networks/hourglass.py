"""The hourglass of the LDEQ cell (Micaelli et al., CVPR 2023; structure of the released model)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.networks.blocks import ConvBlock, average_pool, upsample_nearest
from jaxlm.networks.normalization import EPSILON


class Hourglass(nn.Module):
    """U-shaped network whose width grows by `growth` at each of its `depth` levels.

    Level i has the width wᵢ = width + i · growth. On the way down it is a 3×3 block at wᵢ, whose output is kept as the
    skip, average pooling by 2, and a 3×3 block to wᵢ₊₁. One 3×3 block follows at the bottom. On the way up, level i is
    a 3×3 block to wᵢ, nearest upsampling by 2, concatenation with the skip, and a 1×1 block to wᵢ, to whose output a
    5×5 block of it is added.

    Attributes:
        width: number of input and output channels w₀; divisible by `groups`.
        growth: number of channels that each level adds; divisible by `groups`.
        depth: number of levels; the input's sides must be divisible by 2^depth.
        groups: number of groups of the group norms.
        dtype: type of the activations.
        epsilon: of the group norms.
    """

    width: int
    growth: int
    depth: int = 4
    groups: int = 8
    dtype: Any = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        def block(features, kernel, name):
            return ConvBlock(features, kernel, groups=self.groups, dtype=self.dtype, epsilon=self.epsilon, name=name)

        widths = [self.width + level * self.growth for level in range(self.depth + 1)]
        skips = []
        for level in range(self.depth):
            skip = block(widths[level], 3, f"skip_{level}")(x)
            skips.append(skip)
            x = block(widths[level + 1], 3, f"down_{level}")(average_pool(skip))
        x = block(widths[-1], 3, "bottom")(x)
        for level in reversed(range(self.depth)):
            x = upsample_nearest(block(widths[level], 3, f"up_{level}")(x))
            x = block(widths[level], 1, f"merge_{level}")(jnp.concatenate([x, skips[level]], axis=-1))
            x = x + block(widths[level], 5, f"refine_{level}")(x)
        return x
