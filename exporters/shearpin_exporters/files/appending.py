"""A file that whole lines are appended to, by any number of threads and processes."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["LineFile"]

_GLANCE_SECONDS = 0.01


class LineFile:
    """Open from the start; raises OSError where that cannot be. One thread at a time.

    One ``write()`` in append mode is not torn by another on the file systems of one machine; over a network it may be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cut_off = False
        self._size = 0
        self._descriptor: int | None = None
        self._descriptor = self._open()

    def __del__(self) -> None:
        self.close()

    def _open(self) -> int:
        descriptor = _opened(self.path)
        self._cut_off, self._size = _is_cut_off(descriptor), os.fstat(descriptor).st_size
        return descriptor

    def append(self, lines: bytes) -> int:
        """Write; returns how many bytes of whole lines were written. Raises OSError if nothing was."""
        if self._descriptor is None:
            self._descriptor = self._open()
        text = b"\n" + lines if self._cut_off else lines
        written = os.write(self._descriptor, text)
        self._cut_off = text[written - 1 : written] != b"\n" if written else self._cut_off
        return lines.rfind(b"\n", 0, max(written - len(text) + len(lines), 0)) + 1

    def renew(self) -> bool:
        """Begin a new file if the path does not lead to this one any more; True if so, or if it was emptied."""
        old = self._descriptor
        if old is None:
            return False
        if _is_at(self.path, old):
            before, self._size = self._size, os.fstat(old).st_size
            return self._size < before
        try:
            self._descriptor = self._open()
        except OSError:  # better there than nowhere
            return False
        os.close(old)
        return True

    def close(self) -> None:
        """Let go of the file; the next `append` opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _opened(path: Path) -> int:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
    for folder in reversed([folder for folder in path.parents if not folder.exists()]):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _is_cut_off(descriptor: int) -> bool:
    """Does the file end in the middle of a line, because who wrote it died? Not if someone is writing it now."""
    size, end = _end_of(descriptor)
    if end in (b"", b"\n"):
        return False
    time.sleep(_GLANCE_SECONDS)
    return _end_of(descriptor) == (size, end)


def _end_of(descriptor: int) -> tuple[int, bytes]:
    size = os.fstat(descriptor).st_size
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
    return size, os.read(descriptor, 1)
