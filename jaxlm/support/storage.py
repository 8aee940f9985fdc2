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
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.support.files import write_atomically, write_bytes_atomically

# Kind of storage -> package that fsspec needs for it.
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_KINDS = (*PACKAGES, "memory")
# What tells whether a file is the same as before, by the names that the packages have for it.
_VERSIONS = (
    "etag", "ETag", "mtime", "LastModified", "last_modified", "updated", "generation", "created", "blob_id",
    "xet_hash", "md5Hash", "content_md5",
)  # fmt: skip
_CACHE = "~/.cache/jaxlm/remote"
_LIST, _HOLDER = ".jaxlm_files.json", ".jaxlm_in_use.json"
_INTERVAL = 60.0  # seconds between two copies of a folder that is written
# Files that are not complete, or of this machine alone.
_LOCAL = re.compile(r"(^|/)(\.[^/]*\.partial[^/]*|\.lock|\.lock\.json|[^/]*\.orbax-checkpoint-tmp[^/]*)(/|$)")


def is_remote(place: str | Path) -> bool:
    """Whether a path lies on object storage."""
    kind, colon, _ = _address(place).partition("://")
    return bool(colon) and kind in _KINDS


def _address(place: str | Path) -> str:
    """The text of a place; a `Path` has lost one of the two slashes."""
    text = str(place)
    return re.sub(r"^(\w+):/(?!/)", r"\1://", text) if isinstance(place, Path) else text


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
    name = _address(place).rstrip("/")
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    local = Path(_CACHE).expanduser() / digest / name.rpartition("/")[2]
    record = local.parent / "fetched.json"
    local.parent.mkdir(parents=True, exist_ok=True)
    with _one_sentence(name):
        found = _listing(name)
        if not found:
            raise ValueError(f"{name} does not exist.")
        before: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
        if local.exists() and local.is_dir() == ("" in found):  # a file that has become a folder, or the other way
            shutil.rmtree(local.parent)
            local.parent.mkdir()
            before = {}
        try:
            for path in before.keys() - found.keys():
                (local / path).unlink(missing_ok=True)
                del before[path]
            for path, version in found.items():
                file = local / path if path else local
                if before.get(path) != version or not file.exists():
                    before.pop(path, None)
                    _copy_in(f"{name}/{path}" if path else name, file)
                    before[path] = version
        finally:
            write_atomically(record, json.dumps(before))
    return local


@contextlib.contextmanager
def mirrored(place: str, *, alone: bool = False, interval: float = _INTERVAL) -> Iterator[Path]:
    """Context with a local folder for one of object storage: fetched first, and written back meanwhile and at the end.

    Every `interval` seconds and at the end, what has changed is copied, and what was removed is removed there. A list
    of complete files makes a copy that was interrupted invisible. What cannot be copied at the end stays in the local
    folder.

    Args:
        place: folder on object storage, which need not exist.
        alone: whether another process that holds the folder with `alone` is refused. If one takes the folder all the
            same, this process gets SIGTERM.
        interval: seconds between two copies. A process that was killed holds the folder for three of them.

    Raises:
        ValueError: if it cannot be read or written, or is in use.
    """
    mirror = _Mirror(place.rstrip("/"), interval)
    stop = threading.Event()
    threads = [threading.Thread(target=mirror.keep, args=(stop,), daemon=True)]
    try:
        with _one_sentence(mirror.place):
            if alone:
                mirror.take()
                threads.append(threading.Thread(target=mirror.hold, args=(stop,), daemon=True))
                threads[-1].start()
            mirror.pull()
    except BaseException:
        stop.set()
        with contextlib.suppress(Exception):
            mirror.release()
        shutil.rmtree(mirror.folder.parent)
        raise
    threads[0].start()
    try:
        yield mirror.folder
    finally:
        stop.set()
        for thread in threads:
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
    def __init__(self, place: str, interval: float):
        self.place, self.interval = place, interval
        self.folder = Path(tempfile.mkdtemp(prefix="jaxlm-")) / place.rpartition("/")[2]
        self.known: dict[str, tuple[int, int]] = {}  # size and time of the files that the remote folder has
        self.written = self.lost = False
        self.me = ""  # identity, if the folder is held alone

    def pull(self) -> None:
        """Fetches the complete files."""
        self.folder.mkdir()
        for name in _listing(self.place):
            _copy_in(f"{self.place}/{name}", self.folder / name)
        self.known = self._states()

    def push(self) -> None:
        """Copies what has changed and removes what was removed."""
        if self.lost:
            raise ValueError(f"{self.place} was taken by another training.")
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
        while not stop.wait(self.interval) and not self.lost:
            try:
                self.push()
            except Exception as error:  # of whatever the storage's package raises
                print(f"{self.place} cannot be written now ({error}); it is tried again.")

    def take(self) -> None:
        """Takes the folder, unless another process holds it."""
        held = self._holder()
        if held and time.time() - held["time"] < 3 * self.interval:
            raise ValueError(
                f"{self.place} is in use: process {held['process']} on {held['host']} trains there. Wait for it (one "
                f"that was killed holds it {3 * self.interval:.0f} seconds longer), or choose another --workdir."
            )
        self.me = uuid.uuid4().hex
        self._sign()
        time.sleep(min(1.0, self.interval / 10))  # of two that take it at once, the last to write has it
        if self._holder().get("id") != self.me:
            raise ValueError(f"{self.place} was taken by another training just now; choose another --workdir.")

    def hold(self, stop: threading.Event) -> None:
        """Says that the folder is held until `stop`; ends the program's work if another process has taken it."""
        while not stop.wait(self.interval / 2):
            with contextlib.suppress(Exception):  # tried again
                if self._holder().get("id", self.me) != self.me:
                    self.lost = True
                    print(f"{self.place} was taken by another training: this one ends.")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._sign()

    def release(self) -> None:
        if self.me and not self.lost:
            _remove(f"{self.place}/{_HOLDER}")

    def _sign(self) -> None:
        me = {"id": self.me, "host": socket.gethostname(), "process": os.getpid(), "time": time.time()}
        _write(f"{self.place}/{_HOLDER}", json.dumps(me).encode())

    def _holder(self) -> dict[str, Any]:
        """Who holds the folder; empty if nobody does."""
        try:
            held = json.loads(_read(f"{self.place}/{_HOLDER}"))
            return held if {"id", "host", "process", "time"} <= held.keys() else {}
        except (FileNotFoundError, AttributeError, json.JSONDecodeError):
            return {}

    def _states(self) -> dict[str, tuple[int, int]]:
        """Name -> size and time of the complete local files."""
        found = {}
        for base, _, names in os.walk(self.folder):
            for name in names:
                path = (Path(base) / name).relative_to(self.folder).as_posix()
                if not _LOCAL.search(path):
                    with contextlib.suppress(FileNotFoundError):
                        stat = (Path(base) / name).stat()
                        found[path] = (stat.st_size, stat.st_mtime_ns)
        return found


@contextlib.contextmanager
def written(place: str) -> Iterator[Path]:
    """Context with the local path of a file, which is copied to object storage if it has been written at the end.

    Raises:
        ValueError: if it cannot be copied; the file stays where it is.
    """
    folder = Path(tempfile.mkdtemp(prefix="jaxlm-"))
    file = folder / place.rpartition("/")[2]
    try:
        yield file
    finally:
        try:
            if file.is_file():
                with _one_sentence(place):
                    _write(place, file.read_bytes())
                print(f"copied to {place}")
        except ValueError as error:
            raise ValueError(f"{error} The file is kept as {file}.") from None
        shutil.rmtree(folder)


def exists(place: str) -> bool:
    """Whether there is a file, or a file in a folder, of this name on object storage.

    Raises:
        ValueError: if that cannot be asked.
    """
    with _one_sentence(place):
        return bool(_listing(place.rstrip("/")))


def _storage(place: str) -> tuple[Any, str]:
    """The file system of a place, and the place's name there."""
    import fsspec

    return fsspec.core.url_to_fs(place)


@contextlib.contextmanager
def _one_sentence(place: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        package = PACKAGES.get(place.partition("://")[0], "of this storage")
        raise ValueError(f"{place} needs the package {package}: pip install {package}.") from error
    except (ValueError, KeyboardInterrupt):
        raise
    except Exception as error:  # of whatever the storage's package raises
        raise ValueError(f"{place} cannot be read or written ({type(error).__name__}: {error}).") from None


def _listing(place: str) -> dict[str, list[str]]:
    """Size and version of every complete file of a folder by its name there; of a file by the name ""; empty if none.

    A folder that `mirrored` writes has a list of its complete files.

    Raises:
        ValueError: for a name that is no path below the folder.
    """
    system, name = _storage(place)
    system.invalidate_cache()
    found = {}
    for path, info in system.find(name, detail=True).items():
        inside = path[len(name) :].removeprefix("/")
        if inside.endswith("/") or (not inside and info.get("type") == "directory"):
            continue  # what consoles write for a folder
        if inside and (not {"", ".", ".."}.isdisjoint(inside.split("/")) or "\\" in inside):
            raise ValueError(f"{place} holds {inside!r}, which is no path of a file below it.")
        version = [str(info[key]) for key in _VERSIONS if info.get(key) is not None]
        found[inside] = [str(info.get("size")), *(version or [uuid.uuid4().hex])]  # unknown: copied each time
    if len(found) > 1:
        found.pop("", None)
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
