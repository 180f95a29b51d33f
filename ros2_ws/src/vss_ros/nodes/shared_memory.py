"""Fast DDS's segments in /dev/shm, through which images travel: what dead processes left, and whether ours fits.

Each process holds one, of the size that its profile says, and an empty file beside it that it keeps locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
LOCK = re.compile(r"(?:fastdds|fastrtps)_[0-9a-z]{16}_el")  # Kilted; Humble and Jazzy
SEGMENT_SIZE = re.compile(rb"<segment_size>\s*(\d+)\s*</segment_size>")
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Variables that name a profile of Fast DDS, for Kilted and later, and for Humble to Jazzy."""
OVERHEAD = 1.06
"""A segment's file over the size that the profile says."""
YOUNG = 10.0
"""Seconds in which a process that starts may not have locked its file yet."""
ADVICE = (
    "give the container more (docker run --shm-size=256m), end other ROS processes, or lower segment_size in "
    "the profile; see docs/RELIABILITY.md"
)


def remove_dead(folder: Path = FOLDER) -> int:
    """Remove this user's segments whose process is gone (after kill -9); bytes freed.

    As `fastdds shm clean`, which not every robot has: a file whose lock can be taken belongs to no process.
    """
    freed, locks = 0, []
    with contextlib.suppress(OSError):  # no such folder, or nobody may look into it
        locks = [folder / name for name in sorted(os.listdir(folder)) if LOCK.fullmatch(name)]
    for lock in locks:
        with contextlib.suppress(OSError):  # locked, another user's, or gone by now
            about = lock.lstat()
            if about.st_uid != os.geteuid() or time.time() - about.st_mtime < YOUNG:
                continue
            handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                segment = lock.with_name(lock.name.removesuffix("_el"))
                if segment.exists():
                    size = segment.stat().st_size
                    segment.unlink()
                    freed += size
                lock.unlink()
            finally:
                os.close(handle)
    return freed


def wanted() -> int:
    """Bytes of the segment that this process will make by its profile; 0 where no profile says it."""
    for name in PROFILES:
        with contextlib.suppress(OSError):
            found = SEGMENT_SIZE.search(Path(os.environ.get(name) or "/").read_bytes())
            if found:
                return int(int(found[1]) * OVERHEAD)
    return 0


def shortage(folder: Path = FOLDER) -> str:
    """Why this process's segment will not fit, and what to do; "" if it will."""
    need = wanted()
    if not need:
        return ""
    try:
        about = os.statvfs(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}: images above 64 kB travel by UDP and may be lost; {ADVICE}"
    free = about.f_bavail * about.f_frsize
    if free >= need:
        return ""
    return (
        f"{folder} has {free / 1e6:.0f} MB free and this process's segment for images takes {need / 1e6:.0f} MB: "
        f"images will be lost; {ADVICE}"
    )


def segments_of(process: str = "self") -> set[str]:
    """Names of the segments that a process made: it keeps their lock files locked."""
    names = set()
    for link in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):
            name = link.readlink().name
            if LOCK.fullmatch(name) and "FLOCK" in Path(f"/proc/{process}/fdinfo/{link.name}").read_text():
                names.add(name.removesuffix("_el"))
    return names


def missing() -> str:
    """Once the first node is made: that Fast DDS could not make this process's segment, or ""."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return ""
    need = wanted()
    if not need or "librmw_fastrtps" not in maps:
        return ""
    for name in segments_of():  # a second one of 0.5 MB belongs to Fast DDS itself
        with contextlib.suppress(OSError):
            if (FOLDER / name).stat().st_size >= need / OVERHEAD:
                return ""
    return f"Fast DDS made no segment in {FOLDER} for this process: large images are lost; {ADVICE}"
