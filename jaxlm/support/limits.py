"""The limit of what one file may hold once it is read: a small file can declare more than any memory has."""

import os

FLAG, _ENVIRONMENT = "--file-limit", "JAXLM_FILE_LIMIT"
_DEFAULT = 1.0  # GiB
_PIXELS = "OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_IO_MAX_IMAGE_WIDTH", "OPENCV_IO_MAX_IMAGE_HEIGHT"


def set_file_limit(gigabytes: str) -> None:
    """Sets the limit for this process and those that it starts; OpenCV takes it only before it is imported.

    Raises:
        ValueError: unless it is a positive number.
    """
    try:
        limit = float(gigabytes)
        if not 0 < limit < 1e6:
            raise ValueError
    except ValueError:
        raise ValueError(f"{FLAG} must be a positive number of GiB, got {gigabytes!r}.") from None
    os.environ[_ENVIRONMENT] = gigabytes
    for name in _PIXELS:
        os.environ.setdefault(name, str(max(round(limit * 2**30), 1 << 20)))


def file_limit() -> int:
    """The limit in bytes: 1 GiB, or what `jaxlm --file-limit` or the environment variable JAXLM_FILE_LIMIT says."""
    return round(float(os.environ.get(_ENVIRONMENT) or _DEFAULT) * 2**30)


def check_held(nbytes: int) -> None:
    """Checks the size of what a file holds, before it is read.

    Raises:
        ValueError: if it is more than the limit; without the file's name.
    """
    if nbytes > file_limit():
        raise ValueError(f"it holds {_words(nbytes)}, more than {limit_in_words()}")


def limit_in_words() -> str:
    """The limit and how to raise it."""
    return f"the limit of {_words(file_limit())} for one file, which jaxlm {FLAG}=8 COMMAND raises to 8 GiB"


def _words(nbytes: int) -> str:
    return f"{nbytes / 2**30:.3g} GiB" if nbytes >= 2**29 else f"{nbytes / 2**20:.3g} MiB"
