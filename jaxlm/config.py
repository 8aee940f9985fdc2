"""The type of an experiment's config: an `ml_collections.ConfigDict`, which a type checker takes as it comes."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections

if TYPE_CHECKING:
    Config = Any
else:
    Config = ml_collections.ConfigDict


def load_config_file(name: str) -> Config:
    """An experiment of the repository's folder `configs`, as "reinit_wflw.py" or "reinit_wflw.py:variant".

    Raises:
        ValueError: if there is no such file, as in an installation without the repository.
    """
    file, _, variant = name.partition(":")
    path = Path(__file__).resolve().parent.parent / "configs" / file
    if not path.is_file():
        raise ValueError(f"{path} does not exist: run this from a clone of the repository.")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.get_config(variant)
