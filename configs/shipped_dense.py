"""The dense 3D model inside the package: 3DDFA_V2 on rendered faces alone, for the built-in head.

Paper: Guo et al., ECCV 2020. `jaxlm reconstruct` uses it where no other model is named. `:smoke` takes CPU seconds.

    jaxlm train --config=shipped_dense --workdir=runs/dense
    jaxlm export --workdir=runs/dense --format=orbax --out=jaxlm/shipped/dense

The faces have the geometry of the built-in head alone, because those of ICT-FaceKit have no parameters of it.
"""

from typing import Any

from jaxlm.config import apply_variant, set_rendered_faces, shrink_rendered
from jaxlm.systems.tddfa.settings import default_config, shrink_to_cpu, shrink_to_smoke


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    config.morphable.update(path="head", statistics="")
    config.model.backbone = "mobilenet_0.25"
    config.loss.update(name="vdc_from_fwpdc", vertices=100)
    config.synthesis.mode = "none"
    set_rendered_faces(config, contour="3d", grins=0.2)  # landmarks of the jaw, as a morphable model has them
    with config.unlocked():
        config.data.sources.rendered.update(num_train=10000, num_test=500)
    config.augment.update(rotation=20.0, scale=0.14, translation=0.06, blur=0.15, noise=0.1, color=0.35, grey=0.15)
    config.augment.low_resolution = 0.15
    config.train.update(num_steps=7000, checkpoint_every=1000, log_every=100)
    return apply_variant(config, variant, {"smoke": smoke})


def smoke(config: Any) -> None:
    shrink_to_smoke(config)
    config.synthesis.mode = "none"
    shrink_rendered(config)
