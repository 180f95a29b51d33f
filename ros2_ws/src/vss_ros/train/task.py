"""The task that a network is made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vss_ros.train.counting import Counting
from vss_ros.train.recipe import Recipe
from vss_ros.train.segmentation import Segmentation
from vss_ros.train.tagging import Tagging

TASKS = {"segmentation": Segmentation, "counting": Counting, "tags": Tagging}


def task_of(network: Any, recipe: Recipe, cache: Path | None = None) -> Segmentation:
    return TASKS[getattr(network, "task", "segmentation")](recipe, cache)
