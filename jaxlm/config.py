"""The type of an experiment's config: an `ml_collections.ConfigDict`, which a type checker takes as it comes."""

from typing import TYPE_CHECKING, Any

import ml_collections

if TYPE_CHECKING:
    Config = Any
else:
    Config = ml_collections.ConfigDict
