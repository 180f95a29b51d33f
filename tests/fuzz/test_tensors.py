"""Mutated weights and checkpoints: read or refused in one line, whatever torch's own readers raise."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile

import pytest
import torch
from fixtures.fuzz import COUNT, EXTREMES, mutate_bytes, mutate_values, survives
from safetensors.torch import save
from torch import nn
from vss_ros.networks.cards.weights import parse_safetensors, read_state, restore
from vss_ros.train.checkpoints import resume
from vss_ros.train.recipe import Recipe

pytestmark = pytest.mark.slow
RECIPE = Recipe("dcfm", "mit_b0", "camvid", (64, 96), (64, 64), batch=2, steps=4, lr=1e-3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def mutate_archive(rng, content):
    """Change one member of a zip and keep the checksums right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = next(name for name in names if "data.pkl" in name)
        if rng.random() < 0.5:
            chosen = names[int(rng.integers(len(names)))]
        for name in names:
            data = old.read(name)
            new.writestr(name, mutate_bytes(rng, data) if name == chosen else data)
    return out.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_pth(tmp_path, zipped):
    path, target = tmp_path / "a.pth", network()
    sound = saved({"state_dict": target.state_dict()}, _use_new_zipfile_serialization=zipped)

    def read(rng):
        change = mutate_archive if zipped and rng.random() < 0.6 else mutate_bytes
        path.write_bytes(change(rng, sound))
        restore(target, read_state(path), path)

    assert survives(f"pth {zipped}", read) < COUNT


def test_safetensors():
    target = network()
    sound = save(target.state_dict())

    def read(rng):
        head = rng.random() < 0.7  # most of a file is numbers, which may be any
        cut = 8 + int.from_bytes(sound[:8], "little") if head else len(sound)
        restore(target, parse_safetensors(mutate_bytes(rng, sound[:cut]) + sound[cut:], "a"), "a")

    assert survives("safetensors", read) < COUNT


def test_last_ckpt(tmp_path):
    path, target = tmp_path / "last.ckpt", network()
    optimiser = torch.optim.AdamW(target.parameters(), 0.1)
    target(torch.randn(1, 3, 8, 8)).sum().backward()
    optimiser.step()
    state = {
        "network": target.state_dict(),
        "average": target.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    state |= {"step": 2, "best": 0.5, "seconds": 1.0, "recipe": dataclasses.asdict(RECIPE)}
    sound = saved(state)

    def read(rng):
        kind = rng.random()
        if kind < 0.4:
            content = saved(mutate_values(rng, state))
        else:
            content = mutate_archive(rng, sound) if kind < 0.7 else mutate_bytes(rng, sound)
        path.write_bytes(content)
        found = resume(path, target, target, optimiser, RECIPE)
        assert 0 <= found["step"] <= RECIPE.steps
        optimiser.step()  # what was taken can be gone on with

    assert survives("last.ckpt", read) < COUNT


def test_pickles_of_anything(tmp_path):
    path = tmp_path / "a.pth"

    def read(rng):
        values = [EXTREMES[int(i)] for i in rng.integers(0, len(EXTREMES), 3)]
        path.write_bytes(mutate_bytes(rng, pickle.dumps(values, int(rng.integers(0, 6)))))
        read_state(path)

    assert survives("pickles", read) == 0
