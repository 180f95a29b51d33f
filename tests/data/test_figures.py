"""The table of figures: everything that is measured has an entry, and nothing else says what one is called."""

import re

from fixtures.paths import ROOT
from vss_ros.data.figures import FIGURES, FRAME, PLOTS, STAGES, figure, heading, shown
from vss_ros.evaluate import counting, dataset, report, worst
from vss_ros.nodes.watch.board import Board
from vss_ros.nodes.watch.server import WatchServer


def test_every_selection_is_of_known_figures():
    selections = (dataset.COLUMNS, report.COLUMNS, report.FIRST, report.TIMES, worst.WORST, counting.FIGURES)
    assert {name for names in selections for name in names} <= set(FIGURES)
    assert {name for _, names, _ in PLOTS for name in names} <= set(FIGURES)
    assert all((item.note and "…" in item.note) or item.worse <= 0 for item in FRAME.values()), "a range"


def test_stages_are_those_that_a_stream_times():
    stream = (ROOT / "ros2_ws" / "src" / "vss_ros" / "stream" / "stream.py").read_text()
    laps = " ".join(re.findall(r"lap\(frame, ([^)]+)\)", stream))
    assert {*re.findall(r'"(\w+)"', laps), "total"} == set(STAGES)


def test_no_title_stands_in_a_second_place():
    package = ROOT / "ros2_ws" / "src" / "vss_ros"
    files = [*package.rglob("*.py"), *(package / "web").glob("*.html")]
    table = package / "data" / "figures.py"
    for file in files:
        text = file.read_text() if file != table else ""
        assert not [
            item.title for item in FIGURES.values() if f'"{item.title}"' in text and len(item.title) > 8
        ]


def test_how_a_figure_is_shown():
    assert [heading(name) for name in ("mIoU", "nonkey_ms", "p50", "keyframe_age")] == [
        "mIoU %",
        "non-key ms",
        "p50 ms",
        "keyframe_age",
    ]
    assert shown("TC", 0.5) == "50.00" and shown("frames", 7) == "7" and shown("ms", None) == "–"
    assert figure("area/road").unit == "%" and figure("encode_ms").unit == "ms"
    assert figure("invented").title == "invented" and figure("mIoU").worse == -1


def test_the_watch_page_gets_the_table():
    server = WatchServer(Board(), "127.0.0.1", 0)
    try:
        page = server.page.decode()
    finally:
        server.close()
    assert "/* figures */" not in page and FIGURES["flicker"].title in page
