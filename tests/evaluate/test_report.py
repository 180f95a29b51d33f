"""The HTML report: its size, its figures, and how it works in a real browser."""

import json
import os
import re
import socket
from itertools import product

import cv2
import numpy as np
import pytest
from fixtures.browser import browser, page
from vss_ros.evaluate.report import POINTS, load_run, series, write_report

CLASSES = ["road", "car"]
LONG = 4000


def jpeg(value):
    return cv2.imencode(".jpg", np.full((48, 192, 3), value, np.uint8))[1].tobytes()


def run(folder, name, frames=90, change=0.02, **more):
    """A result as `evaluate_run` leaves it: a keyframe every 5 frames, the worst moment at 2 s."""
    folder.mkdir(parents=True)
    rows = []
    for index in range(frames):
        row = {"index": index, "stamp": 10**18 + index * 10**9 // 30, "keyframe": int(index % 5 == 0)}
        row |= {"keyframe_age": index % 5, "total_ms": 30.0 if index % 5 else 90.0}
        row |= {"area/road": 0.7, "area/car": 0.3, "invented_figure": index / frames}
        if index % 5 == 1:
            row["refresh_jump"] = 0.03
        if index:
            row["label_change"] = 0.5 if index == 60 else change
        rows.append(json.dumps(row))
    (folder / "frames.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "pictures").mkdir()
    pictures = [{"index": index, "worst": ["label_change"] if index == 60 else []} for index in (0, 45, 60)]
    for item in pictures:
        (folder / "pictures" / f"{item['index']:06}.jpg").write_bytes(jpeg(item["index"]))
    result = {
        "run": name,
        "model": "tiny",
        "backend": "torch",
        "classes": CLASSES,
        "palette": [[128, 64, 128], [64, 0, 128]],
        "frames": frames,
        "keyframes": frames // 5,
        "seconds": frames / 30,
        "size": [640, 480],
        "times": {"p50": 30.0, "p95": 90.0, "p99": 90.0, "mean": 42.0, "key": 90.0, "nonkey": 30.0},
        "figures": {
            "keyframe": 0.2,
            "label_change": change,
            "invented_figure": 0.5,
            "area/road": 0.7,
            "encode_ms": 9.0,
        },
        "accuracy": {},
        "pictures": pictures,
        **more,
    }
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def two_runs(tmp_path):
    counts = [[900, 100, 0], [300, 600, 100]]
    told = {"accuracy": {"mIoU": 0.5}, "confusion": counts, "notes": ["3 frames were dropped"]}
    run(tmp_path / "drive" / "a", "tiny K=5", **told)
    run(tmp_path / "drive" / "b", "tiny K=9", change=0.01, accuracy={"mIoU": 0.4})
    run(tmp_path / "other" / "a", "tiny K=5")
    return tmp_path


def test_table_and_json(two_runs):
    text, path = write_report(two_runs, ["drive3: cut short"])
    assert path == two_runs / "report.html"
    lines = text.partition("\n\n")[0].splitlines()
    assert len(lines) == 5 and "| input | run | mIoU % | frames" in lines[0], "what matters first"
    assert lines[2] == "| drive | tiny K=5 | 50.00 | 90 | 18 | 30.00 | 90.00 | 90.00 | 30.00 | 2.00 | 0.50 |"
    assert lines[4].startswith("| other | tiny K=5 | – |")
    report = json.loads((two_runs / "report.json").read_text())
    assert report["runs"][0]["headline"]["mIoU"] == 0.5 and report["problems"] == ["drive3: cut short"]
    assert "jpeg" not in json.dumps(report)


def test_page_needs_nothing_else(two_runs):
    text = write_report(two_runs)[1].read_text()
    assert not re.search(r'(src|href)="(?!data:)', text) and "@import" not in text
    assert len(text) < 200_000


def test_long_recordings_are_thinned_out_and_keep_their_worst_frame(tmp_path):
    run(tmp_path / "drive" / "a", "tiny", frames=LONG)
    short = load_run(tmp_path / "drive" / "a", 1)
    assert len(short["t"]) <= POINTS[1] and short["every"] == 3 and len(short["areas"][0]) == len(short["t"])
    assert max(v for v in short["series"]["label_change"] if v is not None) == 0.5
    assert len(load_run(tmp_path / "drive" / "a", 1000)["t"]) <= POINTS[0], "a fleet has fewer points each"
    assert len(short["keyframes"]) == LONG // 5


def test_a_bin_shows_its_worst_frame():
    bins = [[{"mIoU": 0.5, "label_change": 0.1}, {"mIoU": 0.4, "label_change": 0.3}], [{"label_change": 0.2}]]
    assert series(bins) == {"mIoU": [0.4, None], "label_change": [0.3, 0.2]}


def test_nothing_evaluated(tmp_path, page):
    _, path = write_report(tmp_path, ["all </script> is <b>broken"])
    page.goto(path.as_uri())
    assert page.problems == []
    assert page.locator("#problems p").inner_text() == "all </script> is <b>broken"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("evaluated", [True, False])
def test_light_or_dark_as_the_system_and_by_the_button(two_runs, tmp_path, page, scheme, evaluated):
    folder = two_runs if evaluated else tmp_path / "nothing"
    folder.mkdir(exist_ok=True)
    _, path = write_report(folder, ["drive3: cut short"])
    page.emulate_media(color_scheme=scheme)
    page.goto(path.as_uri())

    def is_dark():
        return page.evaluate("document.documentElement.classList.contains('dark')")

    assert is_dark() == (scheme == "dark")
    page.click("#theme")
    assert is_dark() != (scheme == "dark")
    assert page.problems == []


def painted(page, title):
    """The pixels of the plot of this title, as a set of (r, g, b)."""
    values = page.evaluate(
        """title => {
            const plots = [...document.querySelectorAll("#plots .plot")];
            const canvas = plots.find(plot => plot.firstChild.textContent === title).querySelector("canvas");
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            const seen = new Set();
            for (let i = 0; i < data.length; i += 4) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
            return [...seen];
        }""",
        title,
    )
    return {(value >> 16, value >> 8 & 255, value & 255) for value in values}


def test_in_a_browser(two_runs, page):
    _, path = write_report(two_runs)
    page.goto(path.as_uri())
    assert page.locator("#headline tbody tr").count() == 3
    assert page.locator("#stages tr").first.text_content() == "inputrunencode"
    titles = page.locator("#plots h2").all_inner_texts()
    assert "Labels that changed since the frame before, %" in titles and "invented_figure" in titles
    plots = page.locator("#plots canvas").count()
    assert plots == len(titles) == 7, "time, change, refresh, age, the invented one, areas of two runs"
    for title in titles:
        expected = {(31, 111, 235), (209, 96, 10)}  # the first two colours of the page
        if title.startswith("Share of each class"):
            expected = {(128, 64, 128), (64, 0, 128)}  # the classes' own
        same = title in ("Time a frame, ms", "Frames since the keyframe, frames", "invented_figure")
        if same or title.startswith("Label change that"):
            expected = {(209, 96, 10)}  # equal curves: the second lies over the first
        assert expected <= painted(page, title), title
    assert page.locator("#notes p").inner_text() == "drive, tiny K=5: 3 frames were dropped"

    # A click on the time line shows the picture nearest to it, of both runs.
    box = page.locator("#strips svg").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 5)
    assert page.locator("#moment img").count() == 2
    assert "tiny K=5: frame 45 at 1.50 s" in page.locator("#moment").inner_text()
    assert all(page.locator("#moment img").evaluate_all("all => all.map(i => i.naturalWidth === 192)"))
    middle = float(page.locator("#now").get_attribute("x1"))
    assert middle == pytest.approx(box["width"] / 2, abs=2)

    # A worst moment leads to its place on the time line.
    page.locator("#worst figure").first.click()
    assert "frame 60 at 2.00 s" in page.locator("#moment").inner_text()
    assert "label_change 50.00 %" in page.locator("#worst figcaption").first.inner_text()

    # A click in a plot does the same; a drag zooms all plots and the time line.
    over = page.locator("#plots .u-over").first
    over.click(position={"x": 2, "y": 40})
    assert "frame 0 at 0.00 s" in page.locator("#moment").inner_text()
    ticks = page.locator("path.keyframes").first.get_attribute("d").count("M")
    over.scroll_into_view_if_needed()
    area = over.bounding_box()  # only now: the click has changed what is above
    page.mouse.move(area["x"] + 100, area["y"] + 40)
    page.mouse.down()
    page.mouse.move(area["x"] + 200, area["y"] + 40, steps=4)
    page.mouse.up()
    page.wait_for_function(
        "ticks => document.querySelector('path.keyframes').getAttribute('d').split('M').length - 1 < ticks",
        arg=ticks,
    )

    page.locator("#runs input").nth(1).uncheck()
    assert page.locator("#plots canvas").count() == plots - 1
    page.locator("#input").select_option("other")
    assert page.locator("#moment img").count() == 1
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert page.problems == []


def test_accuracy_of_the_classes_and_their_confusion(two_runs, page):
    page.goto(write_report(two_runs)[1].as_uri())
    assert page.locator("#classes").inner_text().split() == [
        "class",
        "tiny",
        "K=5",
        "road",
        "69.2",
        "car",
        "54.5",
    ]
    rows = page.locator("#matrix tr").evaluate_all(
        "all => all.map(row => [...row.children].map(c => c.textContent))"
    )
    assert rows == [
        ["truth ↓ labels →", *CLASSES, "none"],
        ["road", "90", "10", ""],
        ["car", "30", "60", "10"],
    ]
    page.locator("#input").select_option("other")
    assert not page.locator("#accuracy").is_visible(), "without truth there is none"
    assert page.problems == []


def test_the_time_line_and_the_worst_moments_by_keyboard(two_runs, page):
    page.goto(write_report(two_runs)[1].as_uri())
    line = page.get_by_role("slider", name="moment of the recording")
    line.focus()
    for key, seconds in (
        ("End", 2.97),
        ("ArrowLeft", 2.93),
        ("Home", 0.0),
        ("ArrowRight", 0.03),
        ("PageUp", 0.33),
    ):
        page.keyboard.press(key)
        assert float(line.get_attribute("aria-valuenow")) == pytest.approx(seconds, abs=0.01), key
    page.locator("#worst figure").first.press("Enter")
    assert float(line.get_attribute("aria-valuenow")) == 2.0
    names = page.locator("#plots canvas").evaluate_all("all => all.map(item => item.ariaLabel)")
    assert all(names) and "Time a frame, ms: tiny K=5, tiny K=9" in names


def test_what_matters_is_in_sight_and_nothing_is_wider_than_the_window(two_runs, page):
    """Screenshots are written to $VSS_SCREENSHOTS if that is set."""
    more = {f"figure_{n}": 0.5 for n in range(12)}
    run(
        two_runs / "a recording with a long name" / "a",
        "a model with a long name",
        accuracy={"mIoU": 0.5, **more},
    )
    page.goto(write_report(two_runs)[1].as_uri())
    for width, dark in product((390, 1440), (False, True)):
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        box = page.locator("#headline th", has_text="mIoU").bounding_box()
        assert width < 1440 or box["x"] + box["width"] < width
        if "VSS_SCREENSHOTS" in os.environ:
            folder = os.environ["VSS_SCREENSHOTS"]
            page.screenshot(path=f"{folder}/report_{width}_{'dark' if dark else 'light'}.png", full_page=True)


@pytest.mark.parametrize(
    "name", ["<!--<script>", "</script><script>alert(1)</script>", "\u2028", "a' onload='b", "]]>", "${1}"]
)
def test_names_cannot_break_the_page(tmp_path, page, name):
    run(tmp_path / "drive" / "a", name.replace("\u2028", "x"), classes=[name.replace("\u2028", "x"), "car"])
    page.goto(write_report(tmp_path, [name])[1].as_uri())
    assert page.locator("#headline tbody tr").count() == 1 and page.problems == []
    assert page.locator("#problems p").inner_text() == name


def test_a_foreign_result_fetches_nothing(tmp_path, page):
    """Also where its values got past the check: the page's own policy holds."""
    run(tmp_path / "drive" / "a", "tiny")
    path = write_report(tmp_path)[1]
    text = path.read_text()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.5)
    evil = f"0,0,0);background-image:url(http://127.0.0.1:{server.getsockname()[1]}/x"
    path.write_text(text.replace("[[128, 64, 128], [64, 0, 128]]", f'[["{evil}"], ["{evil}"]]'))
    page.goto(path.as_uri())
    assert page.locator("#headline tbody tr").count() == 1
    with server, pytest.raises(TimeoutError):
        server.accept()
    assert (
        "script-src 'sha256-" in text
        and "default-src 'none'" in text
        and "unsafe" not in text.split("<style>")[0]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"palette": [["0,0,0);background:url(http://x)"], [1, 2, 3]]},
        {"palette": [[1, 2, 3]]},
        {"classes": "road"},
        {"seconds": float("nan")},
        {"accuracy": {"mIoU": float("inf")}},
        {"pictures": [{"index": "../../x", "worst": []}]},
        {"pictures": 3},
        {"times": []},
        {"run": 3},
        {"confusion": "all"},
    ],
)
def test_a_damaged_result_is_named_and_the_others_are_shown(tmp_path, changes):
    run(tmp_path / "drive" / "a", "good")
    run(tmp_path / "drive" / "b", "bad")
    path = tmp_path / "drive" / "b" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    text, _ = write_report(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["runs"]) == 1 and "good" in text
    assert len(report["problems"]) == 1 and "drive/b/result.json is damaged" in report["problems"][0]
