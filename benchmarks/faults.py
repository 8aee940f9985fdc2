"""Which faults a training and its files survive: python -m benchmarks faults --workdir=runs/faults

Each fault is brought about with processes of its own: trainings that are killed, ended by SIGTERM, started twice in a
workdir or left without room for a file, damaged checkpoints and exports, writers of one file, threads of one predictor.
Prints how often each was tried and survived. A training survives if it ends with the same bits as one that was left
alone.
"""

import dataclasses
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from benchmarks.table import Table
from jaxlm.data.rendered.faces import photographs
from jaxlm.predict.model import load_model
from jaxlm.predict.predictor import Predictor
from jaxlm.support.files import write_atomically
from jaxlm.support.signals import AGAIN
from jaxlm.workdir.checkpoints import Checkpoints
from jaxlm.workdir.config_file import load_config
from jaxlm.workdir.restore import restore_variables

_STEPS, _EVERY = 60, 6


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str = "runs/faults"
    """Folder to work in; what it holds is removed."""
    kills: int = 10
    """Number of SIGKILLs and of SIGTERMs."""
    damages: int = 30
    """Number of damaged exports."""
    writes: int = 1500
    """Number of times that each of two processes writes one file."""
    seed: int = 0
    """Of the moments and places."""


def main(options: Options, table: Table) -> None:
    folder, rng = Path(options.workdir).expanduser(), random.Random(options.seed)
    if folder.exists() and not (folder / "whole").is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else, which would be removed; choose another --workdir.")
    shutil.rmtree(folder, ignore_errors=True)
    started = time.time()
    _run(folder / "whole")
    seconds = time.time() - started
    rows: list[tuple[str, Callable[[], tuple[int, int]]]] = [
        (
            "SIGKILL, resumed to the same bits",
            lambda: _stopped(folder, "killed", signal.SIGKILL, options, rng, seconds),
        ),
        ("SIGTERM, resumed to the same bits", lambda: _stopped(folder, "ended", signal.SIGTERM, options, rng, seconds)),
        ("second training refused in a sentence", lambda: _second(folder)),
        ("no room for a checkpoint, resumed", lambda: _no_room(folder)),
        ("newest checkpoint damaged, resumed", lambda: _damaged_checkpoints(folder)),
        ("damaged export noticed", lambda: _damaged_exports(folder, options, rng)),
        ("writes of one file by two processes", lambda: _writers(folder, options)),
        ("pictures in 4 threads as in one", _threads),
    ]
    for name, try_it in rows:
        tried, survived = try_it()
        table.add(name, {"tried": tried, "survived": survived})


def _command(workdir: Path, *words: str) -> list[str]:
    fields = [f"--config.train.num_steps={_STEPS}", f"--config.train.checkpoint_every={_EVERY}"]
    fields.append(f"--config.data.cache={workdir.parent / 'cache'}")
    return [
        sys.executable,
        "-m",
        "jaxlm",
        "train",
        "--config=quickstart:smoke",
        f"--workdir={workdir}",
        *fields,
        *words,
    ]


def _run(workdir: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(_command(workdir), capture_output=True, text=True)


def _bits(workdir: Path) -> str:
    """Digest of the parameters after the last step; "" where the training has not come so far."""
    if not (workdir / "checkpoints" / str(_STEPS)).exists():
        return ""
    variables, _ = restore_variables(load_config(workdir), workdir)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _stopped(
    folder: Path, name: str, number: int, options: Options, rng: random.Random, seconds: float
) -> tuple[int, int]:
    """A training that is stopped again and again at random moments, and then left alone."""
    workdir, stopped, survived = folder / name, 0, 0
    while stopped < options.kills:
        process = subprocess.Popen(_command(workdir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        process.send_signal(number)
        status = process.wait()
        if status == 0:  # it was finished before
            shutil.rmtree(workdir)
            continue
        stopped += 1
        survived += status in (-number, AGAIN)
    _run(workdir)
    same = _bits(workdir) == _bits(folder / "whole")
    return stopped, survived if same else 0


def _second(folder: Path) -> tuple[int, int]:
    workdir = folder / "held"
    process = subprocess.Popen(_command(workdir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (workdir / ".lock.json").exists() and process.poll() is None:
        time.sleep(0.05)
    second = _run(workdir)
    process.wait()
    refused = second.returncode == 2 and "is in use" in second.stderr and second.stderr.count("\n") == 1
    return 1, int(refused and _bits(workdir) == _bits(folder / "whole"))


def _no_room(folder: Path) -> tuple[int, int]:
    """No file may be longer than a few KiB, as if the disk were full: one sentence, and the next start goes on."""
    workdir = folder / "full"
    words = ["sh", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "sh", *_command(workdir)]
    full = subprocess.run(words, capture_output=True, text=True)
    named = full.returncode == 2 and full.stderr.strip().splitlines()[-1].startswith("Error: ")
    _run(workdir)
    return 1, int(named and _bits(workdir) == _bits(folder / "whole"))


def _damaged_checkpoints(folder: Path) -> tuple[int, int]:
    damages: list[Callable[[Path], Any]] = [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        lambda file: file.write_bytes(b""),
    ]
    survived = 0
    for damage in damages:
        workdir = folder / "damaged"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(folder / "whole", workdir)
        newest = Checkpoints(workdir, read_only=True).steps[-1]
        state = workdir / "checkpoints" / str(newest) / "state"
        damage(max((path for path in state.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))
        ran = _run(workdir)
        survived += ran.returncode == 0 and "is damaged" in ran.stdout and _bits(workdir) == _bits(folder / "whole")
    return len(damages), survived


def _damaged_exports(folder: Path, options: Options, rng: random.Random) -> tuple[int, int]:
    """One byte of a file of the exported parameters is changed."""
    exported, survived = folder / "exported", 0
    words = [f"--workdir={folder / 'whole'}", f"--out={exported}"]
    subprocess.run([sys.executable, "-m", "jaxlm", "export", *words], capture_output=True, check=True)
    files = [path for path in (exported / "parameters").rglob("*") if path.is_file() and path.stat().st_size]
    for _ in range(options.damages):
        file = rng.choice(files)
        content = file.read_bytes()
        place = rng.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :])
        try:
            load_model(exported)
        except ValueError as error:
            survived += file.name in str(error)
        file.write_bytes(content)
    load_model(exported)
    return options.damages, survived


_WRITER = """
import sys
from pathlib import Path
from jaxlm.support.files import write_atomically
for _ in range(int(sys.argv[3])):
    write_atomically(Path(sys.argv[1]), sys.argv[2] * 20_000)
"""


def _writers(folder: Path, options: Options) -> tuple[int, int]:
    """Two processes replace one file; a third reads it all the time, and must find one text or the other, whole."""
    path = folder / "file.json"
    write_atomically(path, "a" * 20_000)
    words = [sys.executable, "-c", _WRITER, str(path)]
    writers = [subprocess.Popen([*words, letter, str(options.writes)], stderr=subprocess.DEVNULL) for letter in "ab"]
    torn = 0
    while any(writer.poll() is None for writer in writers):
        torn += path.read_text() not in ("a" * 20_000, "b" * 20_000)
    failed = sum(writer.returncode != 0 for writer in writers)
    tried = 2 * options.writes
    return tried, 0 if failed else tried - torn


def _threads() -> tuple[int, int]:
    """80 calls of one predictor in four threads, on pictures of 20 faces."""
    predictor, border = Predictor.load(), (60, 60, 60, 60)
    faces = photographs(0, 0, 20, 160)
    pictures = [cv2.copyMakeBorder(face["image"], *border, cv2.BORDER_REPLICATE) for face in faces]
    alone = [[face.landmarks for face in predictor(picture)] for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(predictor, pictures * 4))
    same = [
        len(faces) == len(alone[number % 20])
        and all(np.allclose(a.landmarks, b, atol=1e-3) for a, b in zip(faces, alone[number % 20], strict=True))
        for number, faces in enumerate(together)
    ]
    return len(same), sum(same)
