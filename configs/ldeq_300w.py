"""LDEQ on 300-W: the paper's network at 256 × 256 with 68 landmarks.

`data.root` holds 300-W's folders (`afw`, `helen`, `lfpw`, `ibug`, `300W`); a partial copy works with what is there. The
LDEQ paper has no 300-W table; published models of its time reach 2.8 to 3.0 % inter-ocular on the full test set. For
one GPU of 40 GB or a TPU host.

    jaxlm train --config=ldeq_300w --workdir=runs/ldeq_300w --config.data.root=/data/300W
    jaxlm eval --workdir=runs/ldeq_300w
    jaxlm eval --workdir=runs/ldeq_300w --data=300w:private

LFPW's training set alone has no test split. Hold out a part instead:
`--config.data.sources.300w.heldout=0.1 --config.eval.sets="('300w:heldout',)"`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.ldeq.settings import default_config, shrink_to_smoke


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    set_sources(config, **{"300w": source("300w")})
    config.train.num_steps = 14000
    config.eval.sets = ("300w:test",)
    return apply_variant(config, variant, {"smoke": shrink_to_smoke})
