"""A recording that is being written: its folder, who writes there, and what becomes of one that was never ended."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from vss_ros.config import VssError
from vss_ros.media.bags.recover import recover

RESERVE = 8 << 20
"""Bytes kept back, so that on a full disk the bag's index and end can still be written."""


def partial_folder(out: Path) -> Path:
    """Where a recording is until it is complete; `frames.csv` in it shows the progress."""
    return out.with_name(f"{out.name}.partial")


def free_name(path: Path) -> Path:
    """`path`, or the first of path_2, path_3 … that does not exist."""
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}_{number}")
    return found


class Claim:
    """The new folder OUT.partial, ours as long as we live; what a killed recorder left there is saved beside it.

    recovered: where that lies now, and what was made of it. Raises VssError while another recorder writes there.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, partial_folder(out)
        self.recovered: list[str] = []
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            while True:
                with suppress(FileExistsError):
                    self.folder.mkdir()
                    if self.lock():
                        break
                    continue
                if self.lock():  # nobody else's: its process has died
                    saved = self.folder.rename(free_name(out.with_name(f"{out.name}_recovered")))
                    os.close(self.handle)
                    self.recovered.append(f"{saved}: {complete(saved)}")
            self.reserve = self.folder / ".reserve"
            try:
                with self.reserve.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, RESERVE)
            except OSError:
                shutil.rmtree(self.folder)  # new and empty
                raise
        except OSError as error:
            raise VssError(f"out: {out} cannot be written: {error}") from error

    def lock(self) -> bool:
        """Whether the folder is ours now; False if it was moved away meanwhile."""
        try:
            self.handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.handle)
            raise VssError(f"out: another recorder is writing {self.out}; choose another name") from None
        except OSError:  # a file system without locks
            return True
        with suppress(FileNotFoundError):
            if os.stat(self.folder).st_ino == os.fstat(self.handle).st_ino:
                return True
        os.close(self.handle)
        return False

    def release_reserve(self) -> None:
        with suppress(OSError):
            self.reserve.unlink()

    def publish(self) -> Path:
        """Give the folder its name, or the next free one; where it is now."""
        self.release_reserve()
        return self.folder.rename(free_name(self.out))


def complete(folder: Path) -> str:
    """End what a killed recorder left in its folder; what was saved, in words."""
    with suppress(OSError):
        (folder / ".reserve").unlink()
    video = folder / ".overlay.mp4"
    if video.exists():
        video.rename(folder / "overlay.mp4")
    words = []
    for file in folder.glob("bag/*.mcap"):
        try:
            words.append(f"{recover(file)} messages saved")
        except (VssError, OSError) as error:
            words.append(f"{file.name} cannot be completed ({error}); it is left as it is")
    return ", ".join(words) or "it held no messages"
