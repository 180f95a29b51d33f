"""The page of `vss watch` in a real Chromium: by itself with made-up pictures, and beside the real network."""

from __future__ import annotations

import os
import re
from itertools import product
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from fixtures.browser import browser, page
from fixtures.ros import start
from fixtures.watch import OUTPUTS, server

PAGE = """() => ({
    problem: document.getElementById("problem").hidden ? "" : document.getElementById("problem").textContent,
    legend: [...document.querySelectorAll("#legend li")].map(item => [item.querySelector(".swatch + span").textContent,
        getComputedStyle(item.querySelector(".swatch")).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)]),
    titles: [...document.querySelectorAll(".plot h2")].map(item => item.firstChild.textContent),
    lines: [...document.querySelectorAll("#lines li")].map(item => item.textContent),
    node: document.getElementById("node").textContent,
})"""
CANVAS = """index => {
    const canvas = document.querySelectorAll(".plot canvas")[index];
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const colours = new Set();
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) colours.add(data.slice(i, i + 3).join());
    return [...colours].map(text => text.split(",").map(Number));
}"""


CLASSES = [
    {"id": i, "name": name, "color": color}
    for i, (name, color) in enumerate(
        {"road": [128, 64, 128], "car": [64, 0, 128], "sky": [128, 128, 128], "tree": [128, 128, 0]}.items()
    )
]
GREY = 100
PIXEL = """([x, y]) => {
    const context = document.getElementById("overlay").getContext("2d");
    return [...context.getImageData(x, y, 1, 1).data].slice(0, 3);
}"""
BOXES = "#legend input"


@pytest.fixture
def watch(server):
    """A server whose two cameras show grey images with a class in each quarter; 20 frames of figures."""
    watch = server()
    board = watch.board
    board.cameras(["front", "left"])
    labels = np.zeros((48, 64), np.uint8)
    labels[:24, 32:], labels[24:, :32], labels[24:, 32:] = 1, 2, 3
    for number, camera in enumerate(("front", "left")):
        jpeg = cv2.imencode(".jpg", np.full((96, 128, 3), GREY + 50 * number, np.uint8))[1].tobytes()
        board.show(camera, jpeg, cv2.imencode(".png", labels)[1].tobytes())
        for frame in range(20):
            board.add(
                camera, {"latency_ms": 20.0 + frame, "keyframe": frame % 5 == 0, "keyframe_age": frame % 5}
            )
    board.tell(node="/segment", model="tiny", classes=CLASSES, problem="", lines=[])
    return watch


def until(page, condition):
    """Not wait_for_function, which the page's Content-Security-Policy refuses."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def near(seen, expected):
    return np.abs(np.array(seen) - expected).max() <= 3


def at(page, x, y):
    return page.evaluate(PIXEL, [x, y])


def test_opacity_classes_and_colours_change_the_picture_at_hand(watch, page):
    from playwright.sync_api import expect

    page.goto(watch.url)
    expect(page.locator(BOXES)).to_have_count(4)
    until(page, "document.getElementById('overlay').width === 128")
    road, car = (np.array(entry["color"]) for entry in CLASSES[:2])
    assert near(at(page, 20, 20), (GREY + road) / 2) and near(at(page, 100, 20), (GREY + car) / 2)
    page.get_by_label("Opacity").fill("100")
    assert near(at(page, 20, 20), road)
    page.get_by_label("Opacity").fill("0")
    assert near(at(page, 20, 20), GREY)
    page.get_by_label("Opacity").fill("100")
    page.locator("#legend label").nth(1).click()
    assert near(at(page, 100, 20), GREY) and near(at(page, 20, 20), road)
    page.get_by_role("button", name="None").click()
    assert near(at(page, 20, 20), GREY) and not page.locator(f"{BOXES}:checked").count()
    page.locator(BOXES).first.press("Space")
    assert near(at(page, 20, 20), road), "by the keyboard, too"
    page.get_by_role("button", name="All classes").click()
    page.get_by_label("Colours").select_option("safe")
    chosen = page.evaluate("classes.map(colorOf)")
    assert near(at(page, 20, 20), chosen[0]) and not near(at(page, 20, 20), road)
    swatch = page.locator(".swatch").first
    assert swatch.inner_text() == "0", "the id tells swatches apart without a colour"
    assert (
        swatch.evaluate("item => getComputedStyle(item).backgroundColor")
        == f"rgb({', '.join(map(str, chosen[0]))})"
    )
    assert page.problems == []


def test_colours_stay_apart_for_every_kind_of_sight(watch, page):
    page.goto(watch.url)
    least = """count => {
        const looks = safePalette(count).map(seenAs);
        return Math.min(...looks.flatMap((a, i) => looks.slice(i + 1).map(b => apart(a, b))));
    }"""
    camvid = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0]]
    camvid += [[192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]]
    usual = page.evaluate(
        """colors => Math.min(...colors.map(seenAs).flatMap((a, i, all) => all.slice(i + 1).map(b => apart(a, b))))""",
        camvid,
    )
    assert page.evaluate(least, 11) > 0.1 > 2 * usual
    assert page.evaluate(least, 40) > 0.03, "apart for as many classes as a data set has"
    assert page.evaluate("new Set(safePalette(200).map(String)).size") == 200


def test_pause_asks_for_nothing_until_it_goes_on(watch, page):
    from playwright.sync_api import expect

    page.goto(watch.url)
    expect(page.locator(".plot canvas")).to_have_count(2)
    button = page.get_by_role("button", name="Pause")
    page.locator("h1").click()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Go on")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(400)  # what was asked is answered
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    watch.board.add("front", {"latency_ms": 99.0})
    page.wait_for_timeout(500)
    assert not asked
    page.get_by_role("button", name="Go on").click()
    expect(button).to_be_visible()
    expect(page.locator(".plot h2 b").first).to_have_text("99")
    assert page.problems == []


def test_another_camera_has_its_own_picture_and_figures(watch, page):
    from playwright.sync_api import expect

    page.goto(watch.url)
    page.get_by_label("Opacity").fill("0")
    until(page, "document.getElementById('overlay').width === 128")
    assert near(at(page, 20, 20), GREY)
    watch.board.add("left", {"latency_ms": 77.0})
    page.locator("#camera").select_option("left")
    until(
        page,
        f"document.getElementById('overlay').getContext('2d').getImageData(20, 20, 1, 1).data[0] > {GREY + 40}",
    )
    expect(page.locator(".plot h2 b").first).to_have_text("77")
    names = page.locator(".plot canvas").evaluate_all("all => all.map(item => item.ariaLabel)")
    assert names[0].startswith("Latency, ms") and all(names)
    assert page.problems == []


def test_nothing_is_wider_than_the_window(watch, page):
    """Screenshots are written to $VSS_SCREENSHOTS if that is set."""
    page.goto(watch.url)
    until(page, "document.querySelectorAll('.plot canvas').length === 2")
    for width, scheme in product((390, 1440), ("light", "dark")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if "VSS_SCREENSHOTS" in os.environ:
            page.screenshot(
                path=f"{os.environ['VSS_SCREENSHOTS']}/watch_{width}_{scheme}.png", full_page=True
            )


@pytest.mark.slow
@pytest.mark.ros
def test_the_page_in_chromium_beside_the_real_network(start, page, tmp_path):
    """Rendered street frames → replay → segment with its default model → watcher → Chromium.

    The screenshot is written to $VSS_SCREENSHOT if that is set: docs/watch.png.
    """
    from playwright.sync_api import expect
    from vss_ros.data.street.street import Street
    from vss_ros.networks.cards.card import read_card

    street = Street(seed=3, size=(360, 480), fps=5)
    for number in range(30):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), street.frame(number)[0][..., ::-1])
    # Small and in torch: it starts soon and keeps up on a busy machine; a late frame is no gap.
    network = {"backend": "torch", "height": 192, "width": 256, "max_gap": 60.0}
    segment = start(autostart=True, remaps=OUTPUTS, **network)
    start("replay", source=str(tmp_path), fps=5.0, loop=True)
    watcher = start("watcher", port=0)
    assert watcher.logged("open http")
    url = re.findall(r"open (\S+)", watcher.text())[0]
    page.goto(url)
    card = read_card("street")[0]
    problem, plots = page.locator("#problem"), page.locator(".plot canvas")
    expect(page.locator("#legend li")).to_have_count(len(card.classes), timeout=180_000)
    expect(plots).to_have_count(5, timeout=60_000)
    pictures = set()
    for _ in range(40):
        pictures.add(hash(page.locator("#overlay").screenshot()))
        page.wait_for_timeout(150)
        if len(pictures) >= 4:
            break
    assert len(pictures) >= 4, "the overlay moves"
    expect(problem).to_be_hidden(timeout=30_000)
    seen = page.evaluate(PAGE)
    assert seen["legend"] == [[name, list(rgb)] for name, rgb in zip(card.classes, card.palette, strict=True)]
    assert seen["node"] == "/segment" and "input" in "".join(seen["lines"])
    titles = ["Latency, ms", "Keyframe age, frames", "Age of what the network saw, ms"]
    titles += ["Labels that change, share", "Drift from the keyframe"]
    assert seen["titles"] == titles
    for index, title in enumerate(titles):
        blue = [c for c in page.evaluate(CANVAS, index) if c[2] > 150 and c[2] - c[0] > 80]
        assert blue, f"the line of {title} is drawn"
    page.locator("#more summary").click()
    page.get_by_role("checkbox", name="Time per stage, ms").check()
    expect(plots).to_have_count(6)
    page.get_by_role("checkbox", name="Time per stage, ms").uncheck()
    page.locator("#more summary").click()
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != light
    expect(plots).to_have_count(5)
    page.emulate_media(color_scheme="light")
    if "VSS_SCREENSHOT" in os.environ:
        page.set_viewport_size({"width": 1000, "height": 760})
        page.wait_for_timeout(15_000)  # fills the plots
        page.screenshot(path=os.environ["VSS_SCREENSHOT"])
    assert page.problems == []
    # The node goes and comes back; then the server.
    assert segment.stop() == 0
    expect(problem).to_contain_text("/segment has ended", timeout=30_000)
    assert page.problems == []
    port = urlsplit(url).port
    assert watcher.stop() == 0
    expect(problem).to_contain_text("No answer from vss watch", timeout=30_000)
    start("watcher", port=port)
    start(autostart=True, remaps=OUTPUTS, constant_network=True)
    expect(problem).to_be_hidden(timeout=180_000)
    assert all(
        "ERR_CONNECTION_REFUSED" in line or "state.json" in line or "picture" in line
        for line in page.problems
    )
