"""The models inside the package: LDEQs on rendered faces alone. No real picture is trained on.

Paper: Micaelli et al., CVPR 2023. Variants: `:faces68`, the default of `jaxlm predict`, and `:faces98`. `:smoke` takes
CPU seconds. On one CPU core, rendering takes 7 minutes and training about 45; see docs/shipped.md for what to expect.

    jaxlm train --config=shipped:faces68 --workdir=runs/faces68 --config.data.sources.rendered.ict=FaceXModel
    jaxlm export --workdir=runs/faces68 --format=orbax --flip-average --out=jaxlm/shipped/faces68

Half of the faces have the geometry of ICT-FaceKit (https://github.com/ICT-VGL/ICT-FaceKit, MIT licence), which the
folder FaceXModel of its repository holds. Without it, all have that of the built-in head.
"""

from typing import Any

from jaxlm.config import apply_variant, set_rendered_faces, shrink_rendered
from jaxlm.systems.ldeq.settings import default_config, shrink_to_cpu


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    config.solver.max_steps = 3
    set_rendered_faces(config, grins=0.2, ict="")
    with config.unlocked():
        config.data.sources.rendered.update(num_train=10000, num_test=500)
    config.augment.update(rotation=20.0, scale=0.14, translation=0.06, blur=0.15, noise=0.1, color=0.35, grey=0.15)
    config.augment.low_resolution = 0.15
    config.optim.update(learning_rate=6e-3, warmup_steps=100, ema=0.998)
    config.train.update(num_steps=10000, checkpoint_every=1000, log_every=100)
    return apply_variant(config, variant, {"smoke": smoke, "faces68": faces68, "faces98": faces98})


def faces68(config: Any) -> None:
    config.scheme = "faces68"


def faces98(config: Any) -> None:
    config.scheme = "faces98"


def smoke(config: Any) -> None:
    shrink_rendered(config)
    config.model.preset = "nano"
    config.optim.warmup_steps = 2
    config.train.update(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3)
