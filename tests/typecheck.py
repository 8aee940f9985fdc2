"""The run-time type checker that the tests put behind every annotated function of the package."""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
