"""What the rows of one run on a GPU share: its options, its table with a time budget, its configs."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import GIB, Peer, Program, kernels_of, seconds_of
from benchmarks.table import Table, Values
from jaxlm.config import load_config_file
from jaxlm.support.files import write_atomically
from jaxlm.support.program import make_folder


@dataclasses.dataclass(frozen=True)
class Options:
    out: str = "runs/gpu.json"
    """JSON file of the table."""
    minutes: float = 9.0
    """Time budget; rows that do not fit are left out."""
    rows: tuple[str, ...] = ()
    """Rows to measure; all by default."""
    data: str = ""
    """Folder of real faces, as configs/ldeq_faces68.py reads it; rendered otherwise."""
    cache: str = "~/.cache/jaxlm/compiled"
    """Folder of compiled programs."""
    profile: str = ""
    """Folder for traces and compiled code; prints the longest kernels, too."""
    plan: bool = False
    """Compile for an H100 that is not here; prints memory and number of kernels."""
    pytorch: bool = True
    """Compare with PyTorch, if it is installed."""
    smoke: bool = False
    """Tiny sizes, for a CPU."""


class Budgeted(Table):
    """A table that goes on from its file, knows which rows are complete, and has a time budget.

    Args:
        path: of the file.
        minutes: of the budget.

    Raises:
        ValueError: if the file is no such table.
    """

    def __init__(self, path: Path, minutes: float):
        super().__init__(path)
        self.minutes, self.start = minutes, time.perf_counter()
        self.complete: list[str] = []
        if path.exists():
            try:
                content = json.loads(path.read_text())
                self.lines, self.complete = content["lines"], content["complete"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path} is not a table of this program; choose another --out.") from None

    def content(self) -> dict[str, Any]:
        return {"lines": self.lines, "complete": self.complete}

    def seconds_left(self) -> float:
        return 60 * self.minutes - (time.perf_counter() - self.start)

    def finish(self, row: str) -> None:
        self.complete.append(row)
        self.write()

    def value(self, line: str, key: str) -> Any:
        return self.lines.get(line, {}).get(key)


Measure = Callable[[Budgeted], Iterator[tuple[str, Values]]]  # lines of the table
Prepared = tuple[list[Program], Measure]  # programs to compile, and what to measure with them


class Run:
    """What the rows of one run share.

    Args:
        options: of the command.

    Attributes:
        peers: name -> the network in PyTorch.
    """

    def __init__(self, options: Options):
        self.options = options
        self.peers: dict[str, Peer] = {}

    def start_peers(self) -> None:
        """Starts the programs that the chosen rows compare with; they compile while JAX does."""
        for name in ("ldeq", "hourglass") if self.options.pytorch and not self.options.plan else ():
            if name not in self.peers and (not self.options.rows or name in self.options.rows):
                config = self.ldeq_config() if name == "ldeq" else self.hourglass_config()
                self.peers[name] = Peer(name, config, Path(self.options.out).expanduser().with_suffix(f".{name}.log"))

    def wait_for_peers(self) -> None:
        """Waits until none of them compiles any more."""
        for peer in self.peers.values():
            peer.wait()

    def compare(self, name: str, ours: Values, title: str) -> Iterator[tuple[str, Values]]:
        """Lines of the network in PyTorch and of the ratio of both speeds."""
        if name not in self.peers:
            return
        theirs = self.peers[name].measure()
        self.peers[name].process.kill()
        yield f"{title} in PyTorch", theirs
        if "images/s" in theirs:
            yield f"{title}, ratio to PyTorch", {"× images/s": ours["images/s"] / theirs["images/s"]}

    def brief(self, seconds: float) -> float:
        """Duration of a measurement; less with --smoke."""
        return 0.1 if self.options.smoke else seconds

    def tiny(self, config: Any) -> Any:
        """The config with its smallest network, if --smoke."""
        if self.options.smoke:
            config.train.batch_size = 2
            if config.system == "ldeq":
                config.image_size, config.model.preset = 64, "nano"
            elif config.system == "awing":
                config.image_size = 64
                config.model.update(stacks=2, features=16, depth=1)
            elif config.system == "reinit":
                config.image_size = 128
                config.model.update(backbone="nano", global_side=64, local_side=32)
            else:
                config.image_size, config.model.backbone, config.meta.k = 64, "mobilenet_0.25", 2
        if config.system == "tddfa":
            config.train.num_steps = config.train.checkpoint_every = config.meta.k + 1
        return config

    def ldeq_config(self, steps: int = 10, gradient: str = "implicit") -> Any:
        """The paper's network with a fixed number of forward and adjoint solver steps."""
        config: Any = load_config_file("ldeq_wflw")
        config.gradient = gradient
        config.solver.update(tol=0.0, max_steps=steps)
        config.adjoint.update(tol=0.0, max_steps=steps)
        return self.tiny(config)

    def hourglass_config(self, *, remat: bool = False) -> Any:
        """Adaptive Wing's network of the paper's size."""
        config = load_config_file("awing_wflw")
        config.train.batch_size, config.model.remat = 32, remat
        return self.tiny(config)

    def speed(self, table: Budgeted, program: Program, batch: int, name: str = "") -> Values:
        """Images a second, MFU, memory and compilation of a training step; with --profile, its longest kernels."""
        measured = seconds_of(program.call, seconds=self.brief(1.5))
        values: Values = {"images/s": batch / measured, "ms": 1e3 * measured}
        peak = table.value("matrix product", "TFLOP/s")
        if peak:
            values["% MFU"] = 100 * 2 * program.macs / measured / peak / 1e12
        values |= {"GiB": program.memory() / GIB, "s of compilation": program.compilation}
        if self.options.profile and name:
            folder = make_folder(self.options.profile)
            write_atomically(folder / f"{name}.hlo.txt", program.compiled.as_text() or "")
            kernels = kernels_of(program.call, str(folder / name))
            values["ms in kernels"] = 1e3 * sum(seconds for seconds, _ in kernels.values())
            values["kernels called"] = round(sum(calls for _, calls in kernels.values()))
            values["kernels"] = {kernel: round(1e3 * seconds, 4) for kernel, (seconds, _) in list(kernels.items())[:60]}
        return values
