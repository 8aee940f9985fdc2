"""Files on object storage (gs://, s3://, …): fetched into a local folder, and written back from one.

fsspec, on which etils.epath stands as well, reads and writes them. It lists a folder in one request and needs a package
for each kind of storage.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxlm.support.files import write_atomically, write_bytes_atomically

# Kind of storage -> package that fsspec needs for it.
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_KINDS = (*_PACKAGES, "memory")
# What tells whether a file is the same as before, by the names that the packages have for it.
_VERSIONS = ("etag", "ETag", "mtime", "LastModified", "last_modified", "updated", "generation", "created")
_CACHE = "~/.cache/jaxlm/remote"
_WRITTEN = ("--workdir", "--out", "--plot", "--json")
_LIST, _HOLDER = ".jaxlm_files.json", ".jaxlm_in_use.json"
_INTERVAL = 60.0  # seconds between two copies of a folder that is written
_LOCAL = (".partial", ".orbax-checkpoint-tmp", ".lock")  # parts of names of files that are not complete, or not shared


def is_remote(place: str | Path) -> bool:
    """Whether a path lies on object storage."""
    kind, colon, _ = str(place).partition("://")
    return bool(colon) and kind in _KINDS


def under(root: str, name: str) -> Path:
    """Local path of a file or folder below a root, either of which may lie on object storage; `name` may be absolute.

    Raises:
        ValueError: if object storage cannot be read.
    """
    if is_remote(name):
        return fetch(name)
    if is_remote(root) and not Path(name).is_absolute():
        return fetch(f"{root.rstrip('/')}/{name}")
    return Path(root).expanduser() / name


def fetch(place: str | Path) -> Path:
    """Local copy of a file or folder; a place that is not on object storage is returned as it is.

    What has not changed since the last call is not copied again.

    Raises:
        ValueError: if it cannot be read.
    """
    if not is_remote(place):
        return Path(place).expanduser()
    name = str(place).rstrip("/")
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    local = Path(_CACHE).expanduser() / digest / name.rpartition("/")[2]
    local.parent.mkdir(parents=True, exist_ok=True)
    with _one_sentence(name):
        record = local.parent / "fetched.json"
        before = json.loads(record.read_text()) if record.exists() else {}
        found = _listing(name)
        if not found:
            raise ValueError(f"{name} does not exist.")
        for path, version in found.items():
            file = local / path if path else local
            if before.get(path) != version or not file.exists():
                _copy_in(f"{name}/{path}" if path else name, file)
        for path in before.keys() - found.keys():
            (local / path).unlink(missing_ok=True)
        write_atomically(record, json.dumps(found))
    return local


@contextlib.contextmanager
def mirrored(place: str, *, alone: bool = False, interval: float = _INTERVAL) -> Iterator[Path]:
    """Context with a local folder for one of object storage: fetched first, and written back meanwhile and at the end.

    Every `interval` seconds and at the end, what has changed is copied, and what was removed is removed there. A list
    of complete files makes a copy that was interrupted invisible.

    Args:
        place: folder on object storage, which need not exist.
        alone: whether another process that holds the folder with `alone` is refused.
        interval: seconds between two copies.

    Raises:
        ValueError: if it cannot be read or written, or is in use.
    """
    mirror = _Mirror(place.rstrip("/"), alone, interval)
    try:
        with _one_sentence(mirror.place):
            mirror.pull()
    except BaseException:
        shutil.rmtree(mirror.folder.parent)
        raise
    stop = threading.Event()
    thread = threading.Thread(target=mirror.keep, args=(stop,), daemon=True)
    thread.start()
    try:
        yield mirror.folder
    finally:
        stop.set()
        thread.join()
        try:
            with _one_sentence(mirror.place):
                mirror.push()
                mirror.release()
        except ValueError as error:
            raise ValueError(f"{error} The files are kept in {mirror.folder}.") from None
        shutil.rmtree(mirror.folder.parent)
        if mirror.written:
            print(f"copied to {place}")


class _Mirror:
    def __init__(self, place: str, alone: bool, interval: float):
        self.place, self.alone, self.interval = place, alone, interval
        self.folder = Path(tempfile.mkdtemp(prefix="jaxlm-")) / place.rpartition("/")[2]
        self.known: dict[str, tuple[int, int]] = {}  # size and time of the files that the remote folder has
        self.written = False

    def pull(self) -> None:
        """Takes the folder if it is to be held alone, and fetches its complete files."""
        self.folder.mkdir()
        self._hold()
        for name in _listing(self.place):
            _copy_in(f"{self.place}/{name}", self.folder / name)
        self.known = self._states()

    def push(self) -> None:
        """Copies what has changed and removes what was removed."""
        self._hold()
        now = self._states()
        changed = [name for name, state in now.items() if self.known.get(name) != state]
        gone = [name for name in self.known if name not in now]
        for name in changed:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                _write(f"{self.place}/{name}", (self.folder / name).read_bytes())
        if changed or gone:  # of the list that is there now: another process may write other files
            self.written = True
            names = {*(_read_list(self.place) or self.known), *changed} - {*gone}
            _write(f"{self.place}/{_LIST}", json.dumps(sorted(names)).encode())
        for name in gone:
            _remove(f"{self.place}/{name}")
        self.known = now

    def keep(self, stop: threading.Event) -> None:
        """Pushes until `stop`; what fails is tried again, the last time by the caller."""
        while not stop.wait(self.interval):
            try:
                self.push()
            except Exception as error:  # of whatever the storage's package raises
                print(f"{self.place} cannot be written now ({error}); it is tried again.")

    def release(self) -> None:
        if self.alone:
            _remove(f"{self.place}/{_HOLDER}")

    def _hold(self) -> None:
        if not self.alone:
            return
        holder, me = f"{self.place}/{_HOLDER}", [socket.gethostname(), os.getpid()]
        with contextlib.suppress(FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
            held = json.loads(_read(holder))
            if held["process"] != me and time.time() - held["time"] < 3 * self.interval:
                host, process = held["process"]
                raise ValueError(
                    f"{self.place} is in use: process {process} on {host} trains there. Wait for it (a process "
                    f"that was killed holds it {3 * self.interval:.0f} seconds longer), or choose another --workdir."
                )
        _write(holder, json.dumps({"process": me, "time": time.time()}).encode())

    def _states(self) -> dict[str, tuple[int, int]]:
        """Name -> size and time of the complete local files."""
        found = {}
        for base, _, names in os.walk(self.folder):
            for name in names:
                path = (Path(base) / name).relative_to(self.folder).as_posix()
                if not any(word in path for word in _LOCAL):
                    with contextlib.suppress(FileNotFoundError):
                        stat = (Path(base) / name).stat()
                        found[path] = (stat.st_size, stat.st_mtime_ns)
        return found


def local_words(words: Sequence[str], stack: contextlib.ExitStack, *, alone: bool = False) -> list[str]:
    """Words of a command line with local paths in place of those on object storage.

    What `--workdir` and `--out` name is written back, at the latest when the stack is closed; everything else is
    fetched. Fields of a config stay as they are.

    Raises:
        ValueError: as `fetch` and `mirrored`, and for shares of a work that would not see each other's results.
    """
    found, option = [], ""
    shared = [flag for flag in ("--shard", "--distributed") if any(word.startswith(flag) for word in words)]
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name.startswith("-")):
            name, equals, value = ("", "", word)
        option = name or (word if word.startswith("-") else option)
        own = not option.startswith("--config")
        if own and is_remote(value):
            word = f"{name}{equals}{_local(value, option, stack, alone, shared)}"
        elif own and re.match(r"[a-z0-9]+://", value):
            raise ValueError(f"{value} is on no storage that is known: name a local path, or one of {_examples()}.")
        if option in _WRITTEN and word != option:  # which take one value
            option = ""
        found.append(word)
    return found


def _examples() -> str:
    return ", ".join(f"{kind}://" for kind in _PACKAGES)


def _local(place: str, option: str, stack: contextlib.ExitStack, alone: bool, shared: list[str]) -> Path:
    if option in ("--plot", "--json") or (option == "--out" and Path(place).suffix):
        return stack.enter_context(_written(place))
    if option in ("--workdir", "--out"):
        if shared:
            raise ValueError(
                f"{shared[0]} needs an {option} that all machines share; {place} is copied to each: mount it, and name "
                "the folder."
            )
        return stack.enter_context(mirrored(place, alone=alone and option == "--workdir"))
    return fetch(place)


@contextlib.contextmanager
def _written(place: str) -> Iterator[Path]:
    """Context with the local path of a file that is copied to object storage if it has been written at the end."""
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as folder:
        file = Path(folder) / place.rpartition("/")[2]
        yield file
        if file.exists():
            with _one_sentence(place):
                _write(place, file.read_bytes())
            print(f"copied to {place}")


def _storage(place: str) -> tuple[Any, str]:
    """The file system of a place, and the place's name there."""
    import fsspec

    return fsspec.core.url_to_fs(place)


@contextlib.contextmanager
def _one_sentence(place: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        kind = place.partition("://")[0]
        raise ValueError(f"{place} needs the package {_PACKAGES[kind]}: pip install {_PACKAGES[kind]}.") from error
    except (ValueError, KeyboardInterrupt):
        raise
    except Exception as error:  # of whatever the storage's package raises
        raise ValueError(f"{place} cannot be read or written ({type(error).__name__}: {error}).") from None


def _listing(place: str) -> dict[str, list[str]]:
    """Size and version of every complete file of a folder by its name there; of a file by the name ""; empty if none.

    A folder that `mirrored` writes has a list of its complete files.
    """
    system, name = _storage(place)
    system.invalidate_cache()
    found = {}
    for path, info in system.find(name, detail=True).items():
        inside = path[len(name) :].strip("/")
        found[inside] = [str(info.get(key)) for key in ("size", *_VERSIONS)]
    listed = _read_list(place) if _LIST in found else None
    names = found.keys() if listed is None else found.keys() & set(listed)
    return {inside: found[inside] for inside in names - {_LIST, _HOLDER}}


def _read_list(place: str) -> list[str] | None:
    try:
        return json.loads(_read(f"{place}/{_LIST}"))
    except FileNotFoundError:
        return None


def _copy_in(place: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    system, name = _storage(place)
    with system.open(name, "rb") as read:
        write_bytes_atomically(file, lambda write: shutil.copyfileobj(read, write, 1 << 20))


def _read(place: str) -> bytes:
    system, name = _storage(place)
    with system.open(name, "rb") as file:
        return file.read()


def _write(place: str, content: bytes) -> None:
    system, name = _storage(place)
    system.makedirs(name.rpartition("/")[0], exist_ok=True)
    with system.open(name, "wb") as file:
        file.write(content)


def _remove(place: str) -> None:
    system, name = _storage(place)
    with contextlib.suppress(FileNotFoundError):
        system.rm_file(name)
