"""Groups of classes: by hand, through a stream, and every way to write them wrongly."""

from __future__ import annotations

import numpy as np
import pytest
import vss_ros
from fixtures.paths import ROOT
from vss_ros.config import StreamConfig, VssError
from vss_ros.networks.cards.card import read_card
from vss_ros.stream.groups import Groups


@pytest.fixture
def groups(tmp_path, tiny_card):
    """groups(text): of the tiny model's classes road, car, sky."""

    def write(text: str) -> Groups:
        (tmp_path / "groups.yaml").write_text(text)
        return Groups(read_card(tiny_card)[0], tmp_path / "groups.yaml")

    return write


def test_ids_names_and_colours(groups):
    found = groups('free: [road, sky]\nobstacle: ["*"]\ncolours: {obstacle: [1, 2, 3]}')
    assert found.card.classes == ["free", "obstacle"]
    assert found.card.palette == [[128, 64, 128], [1, 2, 3]], "of its first class, unless it has its own"
    labels = np.array([[0, 1, 2], [255, 7, 0]], np.uint8)
    assert found(labels).tolist() == [[0, 1, 0], [255, 255, 0]]
    assert labels[0, 1] == 1, "the argument stays as it was"


def test_a_class_of_no_group_is_unlabelled(groups):
    assert groups("sky: [sky]")(np.array([[0, 1, 2]], np.uint8)).tolist() == [[255, 255, 0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [tram]", "a: 'tram': expected classes of model tiny: road, car, sky"),
        ("a: [road]\nb: [road]", "road is in several"),
        ("a: road", "a: expected a list of classes, got 'road'"),
        ("a: []", "expected a list of classes"),
        ("[road]", "expected lists of classes by the groups' names"),
        ("colours: {}", "expected lists of classes by the groups' names"),
        ("a: [[road]]", "expected classes of model tiny"),
        (
            "a: [road]\ncolours: {b: [1, 2, 3]}",
            "colours: expected .r, g, b. of 0 to 255 by a group's name, got 'b'",
        ),
        ("a: [road]\ncolours: {a: [1, 2, 300]}", "got 'a': .1, 2, 300."),
        ("a: [road]\ncolours: [1, 2, 3]", "colours: expected"),
    ],
)
def test_files_that_do_not_fit(groups, text, reason):
    with pytest.raises(VssError, match=reason):
        groups(text)


def test_a_file_that_is_not_there(tiny_card):
    with pytest.raises(VssError, match="nowhere"):
        Groups(read_card(tiny_card)[0], "/nowhere.yaml")


def test_the_example_fits_both_models_that_are_shipped():
    for model in ("street", "camvid"):
        groups = Groups(read_card(model)[0], ROOT / "config" / "groups.yaml")
        assert groups.card.classes[0] == "traversable" and set(groups.table[:11]) == set(range(5))


def test_a_stream_answers_with_groups(tmp_path, tiny_card, rng):
    (tmp_path / "groups.yaml").write_text('free: [road, sky]\nobstacle: ["*"]')
    frame = rng.integers(0, 256, (64, 96, 3), np.uint8)
    plain = vss_ros.load_stream(tiny_card, backend="torch")
    expected = plain(frame).labels
    stream = vss_ros.load_stream(tiny_card, backend="torch", groups=str(tmp_path / "groups.yaml"))
    assert stream.card.classes == ["free", "obstacle"]
    result = stream(frame)
    np.testing.assert_array_equal(result.labels, np.array([0, 1, 0], np.uint8)[expected])
    stream.prepare(StreamConfig())
    stream.reset()
    np.testing.assert_array_equal(stream(frame).labels, expected)
    assert stream.card.classes == plain.card.classes
