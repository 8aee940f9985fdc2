"""The hourglass of the LDEQ cell (Micaelli et al., CVPR 2023; structure of the released model)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.networks.blocks import ConvBlock, average_pool, upsample_nearest


class Hourglass(nn.Module):
    """U-shaped network whose width grows by `growth` at each of its `depth` levels.

    Level i, at width wᵢ = width + i · growth. Down: 3×3 at wᵢ (kept as the skip), average pool 2, 3×3 to wᵢ₊₁. At the
    bottom one 3×3. Up: 3×3 to wᵢ, nearest ×2, concatenated with the skip, 1×1 to wᵢ, plus a 5×5 of itself.

    Attributes:
        width: channels in and out, w₀; divisible by `groups`, as is `growth`.
        growth: channels that each level adds.
        depth: levels; the input's sides are divisible by 2^depth.
        groups: groups of the norms.
        dtype: of the activations.
    """

    width: int
    growth: int
    depth: int = 4
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        def block(features, kernel, name):
            return ConvBlock(features, kernel, groups=self.groups, dtype=self.dtype, name=name)

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
