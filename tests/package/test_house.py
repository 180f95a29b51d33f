"""The house: where files lie, how large they are, and who imports whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from fixtures.paths import ROOT, run_python

PACKAGE = ROOT / "ros2_ws" / "src" / "vss_ros"
FLOORS = [
    {"config", "options", "child"},
    {"media"},
    {"networks", "data", "node_config"},
    {"backends"},
    {"stream"},
    {"evaluate", "train"},
    {"nodes"},
    {"deploy"},
    {"cli"},
]
"""A room imports from its own floor and from those before it. `options` and `config` are one floor: both are the way
that options are declared and turned into flags."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]
BESIDE = [ROOT / "tests", ROOT / "bench"]
OTHERS = sorted(file for folder in BESIDE for file in folder.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> set[str]:
    """Modules of this package that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vss_ros"):
            names = [node.module] if node.module != "vss_ros" else [f"vss_ros.{a.name}" for a in node.names]
            found.update(names)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("vss_ros"))
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    above = {name for name in imports(file) if FLOOR.get(room_of(name), 0) > FLOOR[room]}
    assert not above, f"{room} imports from a floor above it"


def test_no_files_import_each_other_in_a_circle():
    names = {
        ".".join(("vss_ros", *file.relative_to(PACKAGE).with_suffix("").parts)): file for file in SOURCES
    }
    left = {name: imported_files(file, names) - {name} for name, file in names.items()}
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, "each of these is in a circle, or leads to one"


def imported_files(file: Path, names: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & names.keys()


def test_only_nodes_import_rclpy():
    guilty = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "rclpy" for name in modules) and "nodes" not in file.parts:
                guilty.append(file)
    assert not guilty


def test_importing_the_package_needs_neither_torch_nor_ros():
    code = (
        "import sys, vss_ros; assert not {'torch', 'rclpy', 'tensorrt', 'openvino', 'cv2'} & set(sys.modules)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_files_fit_on_a_few_screens():
    long = {str(file): len(file.read_text().splitlines()) for file in (*SOURCES, *OTHERS)}
    assert not {file: lines for file, lines in long.items() if lines > 350}


def test_a_folder_holds_at_most_fifteen_entries():
    tops = [PACKAGE, *BESIDE]
    folders = [*tops, *(path for top in tops for path in top.rglob("*") if path.is_dir())]
    counts = {}
    for folder in folders:
        names = [
            path.name
            for path in folder.iterdir()
            if path.name not in ("__pycache__", "__init__.py", "py.typed")
        ]
        counts[str(folder)] = len(names)
    assert not {folder: count for folder, count in counts.items() if count > 15}


def test_tests_mirror_the_source():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    extra = {"fixtures", "faults", "fuzz", "package"}
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {
        "__pycache__"
    } <= rooms | extra
