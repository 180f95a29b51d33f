"""Which files are one recording: split files, what metadata.yaml says of them, several drives in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vss_ros.config import VssError, brief
from vss_ros.media.files import check_input, natural_key, read_yaml

SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".bag", ".bag.active")
METADATA = "metadata.yaml"


def listing(names: Iterable[str]) -> str:
    """Names of topics or files for an error, of bounded length: a recording can hold 60,000."""
    return brief(", ".join(names), 1000)


def is_storage(path: Path) -> bool:
    """Whether a file is named like one of a recording."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def is_bag(path: Path) -> bool:
    """Whether `path` looks like a recording: a storage file, or a folder with one or with rosbag2's metadata.yaml."""
    if path.is_dir():
        return any(map(is_storage, path.iterdir())) or bool(metadata(path))
    return is_storage(path)


def find_bags(folder: Path) -> list[Path]:
    """The recordings of a folder that `is_bag`: itself, or its files where they are several drives."""
    found = groups(folder)
    if len(found) <= 1:
        return [folder]
    files = [path for group in found for path in group]
    return files if not listed(folder) else [folder, *files[len(found[0]) :]]


def groups(folder: Path) -> list[list[Path]]:
    """The storage files of each recording in a folder, in order.

    One recording are the files that metadata.yaml lists, and those that rosbag2 numbers from 0 on (NAME_0.mcap,
    NAME_1.mcap …); any other file is its own. What is there twice, packed and not, or as mcap and db3, is read once.
    """
    found = sorted(filter(is_storage, folder.iterdir()), key=natural_key)
    # A link to nothing is missed by name; pipes and devices would be waited for.
    found = [path for path in found if path.is_file() or not path.exists()]
    # A recorder that is interrupted while it packs leaves both.
    found = [path for path in found if not (path.suffix == ".zstd" and path.with_suffix("") in found)]
    first = listed(folder)
    by_stem: dict[str, list[Path]] = {stem(path): [] for path in (*first, *found)}
    for path in (*first, *(path for path in found if path not in first)):
        by_stem[stem(path)].append(path)
    result = [first] if first else []
    for name, files in by_stem.items():
        mcap = [path for path in files if ".mcap" in path.suffixes]
        files = mcap if mcap and not first else files
        if first and name == stem(first[0]):
            first.extend(path for path in files if path not in first and path.suffixes == first[0].suffixes)
        elif any(number(path) == 0 for path in files):
            result.append(files)
        else:
            result.extend([path] for path in files if path not in first)
    return result


def listed(folder: Path) -> list[Path]:
    """The files of metadata.yaml that are there; older releases wrote the folder's name before theirs."""
    names = metadata(folder).get("relative_file_paths")
    paths = [folder / Path(str(name)).name for name in names] if isinstance(names, list) else []
    return [path for path in dict.fromkeys(paths) if os.path.isfile(path)]  # False for names too long


SPLIT = re.compile(r"(?:_(\d+))?\.(?:mcap|db3|bag)(?:\.zstd|\.active)?$", re.IGNORECASE)


def stem(path: Path) -> str:
    """The name without the number of a split file: the same for all files of a recording."""
    return SPLIT.sub("", path.name)


def number(path: Path) -> int | None:
    match = SPLIT.search(path.name)
    return int(match[1]) if match and match[1] else None


def metadata(folder: Path) -> dict[str, Any]:
    """What metadata.yaml says; empty where it is missing or damaged, since the files say it, too."""
    try:
        content = read_yaml(folder / METADATA)["rosbag2_bagfile_information"]
    except (VssError, OSError, KeyError, TypeError, IndexError):
        return {}
    return content if isinstance(content, dict) else {}


def promised(folder: Path) -> dict[str, int]:
    """{topic: number of messages} by metadata.yaml."""
    found = {}
    topics = metadata(folder).get("topics_with_message_count")
    for topic in topics if isinstance(topics, list) else ():
        try:
            found[str(topic["topic_metadata"]["name"])] = int(topic["message_count"])
        except (KeyError, TypeError, ValueError):
            continue
    return found


def files_of(path: Path) -> list[Path]:
    """The storage files of one recording, in order; VssError with the right advice where there is none."""
    check_input(path, "a rosbag2")
    if path.is_file():
        return [path]
    found = groups(path)
    if not found:
        names = metadata(path).get("relative_file_paths")
        missing = f": {METADATA} lists {names}, copy them, too" if names else ""
        raise VssError(f"{path}: expected a rosbag2, got a folder without .mcap or .db3 files{missing}")
    if len(found) > 1 and not listed(path):
        names = listing(file.name for group in found for file in group)
        raise VssError(f"{path}: expected one recording, the folder holds several; name one of {names}")
    return found[0]
