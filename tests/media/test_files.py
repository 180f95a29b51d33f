"""Files of others: bounded before they are read, and folders that nobody else may write to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from fixtures.paths import give_away
from vss_ros.config import VssError, fits
from vss_ros.media.files import check_input, evict, natural_key, own_folder, read_bytes, read_text, read_yaml


def test_only_plain_files_up_to_a_limit_are_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(VssError, match="expected at most 4 bytes, got 5"):
        read_bytes(path, 4)
    os.mkfifo(tmp_path / "pipe")
    for other in ("/dev/zero", "/dev/tty", tmp_path, tmp_path / "pipe", tmp_path / "none", "a\0b"):
        with pytest.raises(VssError, match="cannot be read"):
            read_bytes(other, 1)


def test_an_input_is_a_plain_file_or_a_folder(tmp_path):
    check_input(tmp_path, "a bag")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for other in ("pipe", "loop", "zero", "x" * 300, "a\0b"):
        with pytest.raises(VssError, match="cannot be read"):
            check_input(tmp_path / other, "a bag")
    with pytest.raises(VssError, match="no such file or folder; expected a bag"):
        check_input(tmp_path / "none", "a bag")


def test_yaml_of_plain_values_with_few_aliases_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &x [1, 2.5, null, yes, text]\nb: *x\nc: {<<: {d: 1}}")
    assert read_yaml(path) == {
        "a": [1, 2.5, None, True, "text"],
        "b": [1, 2.5, None, True, "text"],
        "c": {"d": 1},
    }
    path.write_text("")
    assert read_yaml(path) is None


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (1, float, True),
        (float("nan"), float, False),
        (1 << 70, float, False),
        (True, int, False),
        (1, bool, False),
        ("a\n", str, False),
        ([[1], [2]], list[list[int]], True),
        ([[1], 2], list[list[int]], False),
        ((1, 2), tuple[int, int], True),
        ((1, 2, 3), tuple[int, int], False),
        ((1, 2, 3), tuple[int, ...], True),
        ((), tuple[str, ...], True),
        ({"a": 1}, dict[str, int], True),
        ({1: 1}, dict, False),
    ],
)
def test_types_of_values_are_exact(value, kind, right):
    assert fits(value, kind) is right


def test_a_folder_of_ours_is_closed_to_others_and_one_of_others_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    own_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(VssError, match="is a link"):
        own_folder(tmp_path / "link")
    give_away(monkeypatch, folder)
    with pytest.raises(VssError, match="belongs to user"):
        own_folder(folder)


def test_natural_order():
    names = ["frame_10.png", "frame_9.png", "a.png", "frame_009b.png"]
    found = sorted(map(Path, names), key=natural_key)
    assert [path.name for path in found] == ["a.png", "frame_9.png", "frame_009b.png", "frame_10.png"]


def test_text_of_a_program_that_marks_its_encoding(tmp_path):
    file = tmp_path / "list.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes("näh,1\n".encode(encoding))
        assert read_text(file) == "näh,1\n"
    file.write_bytes(b"n\xe4h")
    with pytest.raises(
        VssError, match=r"list\.csv: expected text in UTF-8, got byte 0xe4 at 1; save it as UTF-8"
    ):
        read_text(file)
    with pytest.raises(VssError, match="cannot be read"):
        read_text(tmp_path)


def test_what_others_remove_meanwhile_is_no_error(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(bytes(10))
        os.utime(tmp_path / f"{number}", (number, number))
    files = [tmp_path / name for name in ("gone", "0", "1", "2")]
    assert evict(files, limit=20) == [tmp_path / "0"] and (tmp_path / "1").exists()
