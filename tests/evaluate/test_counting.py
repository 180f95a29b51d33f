"""`vss evaluate` of a model that counts: figures, scatter plot, worst pictures."""

from __future__ import annotations

import argparse
import base64
import json

import cv2
import numpy as np
import pytest
from fixtures.counting import counting_card
from vss_ros.config import VssError
from vss_ros.data.metrics import count_figures
from vss_ros.evaluate import dataset
from vss_ros.evaluate.counting import KINDS, draw_scatter


def arguments(*more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    dataset.add_arguments(parser)
    return parser.parse_args([*more, "--backend", "torch"])


def test_figures_plot_and_pictures(tmp_path, rng):
    card = counting_card(tmp_path / "model")
    lines = ["image,x,y"]
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (70, 90, 3), np.uint8))
        lines += [f"{i}.png,{10 * j + 5},20" for j in range(i)] or [f"{i}.png,,"]
    (tmp_path / "test.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    base = ("--model", str(card), "--data", "points", "--root", str(tmp_path), "--out", str(out))
    assert dataset.main(arguments(*base)) == 0
    report = json.loads((out / "tiny_count_points_test.json").read_text())
    assert report["counts"]["truth"] == [0, 1, 2] and report["images"] == 3
    assert any(
        "to say 1.0, the mean of these images, always has an MAE of 0.667" in r for r in report["remarks"]
    )
    for kind in ("points", "density"):
        expected = count_figures(report["counts"]["truth"], report["counts"][kind])
        assert report["figures"][kind] == pytest.approx(expected, abs=1e-3)
    assert "| points |" in (out / "tiny_count_points_test.md").read_text()
    for name in ("tiny_count_points_test.png", "tiny_count_points_test_worst.png"):
        assert cv2.imread(str(out / name)) is not None
    page = (out / "tiny_count_points_test.html").read_text()
    assert "<h1>tiny_count on points test</h1>" in page and "<td>by density</td>" in page
    scatter = base64.b64encode((out / "tiny_count_points_test.png").read_bytes()).decode()
    assert scatter in page and "default-src 'none'" in page and "<script" not in page
    with pytest.raises(VssError, match="counts; expected street_points"):
        dataset.main(arguments("--model", str(card), "--data", "street"))


@pytest.mark.parametrize("most", [3, 12, 1400])
def test_nothing_of_the_scatter_plot_is_cut_off(tmp_path, most):
    counts = {kind: [0, most // 2, most] for kind in ("truth", *KINDS)}
    figures = {kind: {"MAE": 1.4} for kind in KINDS}
    picture = cv2.imread(str(draw_scatter({"counts": counts, "figures": figures}, tmp_path / "plot.png")))
    for edge in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
        assert (edge == 255).all()
