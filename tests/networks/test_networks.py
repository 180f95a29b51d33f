"""What every network promises: three pure stages, a loss that training lowers, sizes that need not be round."""

from __future__ import annotations

import copy
import textwrap

import numpy as np
import pytest
import torch
from fixtures.paths import run_python
from vss_ros.backends.choose import make_backend
from vss_ros.backends.stages import fold_batch_norms
from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model
from vss_ros.networks.mrcfa import Affinities
from vss_ros.networks.msaf import deformable_conv
from vss_ros.networks.stf import resized
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

SMALL_GRID = {"grid": (8, 16)}  # of STF's learned positions
SLOW = [  # variants of STF, which is among the fast cases, too
    ("stf", "resnet18", {**SMALL_GRID, "causal": True}),
    ("mar+stf", "resnet18", SMALL_GRID),
]
EVERY = [
    ("dcfm", "mit_b0", {}),
    ("dcfm", "resnet18", {}),
    ("dcfm", "mobilenet_v1", {}),
    ("dcfm", "espnetv2", {}),
    ("segformer", "mit_b0", {}),
    ("segformer", "mobilenet_v1", {}),
    ("segformer", "espnetv2", {}),
    ("pspnet", "resnet18", {}),
    ("cffm", "mit_b0", {}),
    ("cffm", "mobilenet_v1", {}),
    ("mrcfa", "mit_b0", {}),
    ("mrcfa", "mobilenet_v1", {}),
    ("mrcfa", "mit_b1", {}),
    ("msaf", "resnet18", {}),
    ("msaf", "resnet18", {"reduction": 4}),
    ("msaf", "mobilenet_v1", {"reduction": 4}),
    ("stf", "resnet18", SMALL_GRID),
    ("mar+dcfm", "mit_b0", {}),
    ("mar+pspnet", "resnet18", {}),
    *SLOW,
]
CASES = [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in EVERY]
OLDER = {
    "cffm": (9, 6, 3),
    "mrcfa": (9, 6, 3),
    "msaf": (2, 1),
}  # frames that are read, as the papers give them


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def made(request):
    """Name, backbone and options of a network, and the network itself; who changes it takes a copy."""
    name, backbone, options = request.param
    torch.manual_seed(0)
    return name, backbone, options, build(name, backbone, 5, **options).eval()


def answer(network, frames, keys):
    """Logits of the last frame: all frames encoded, those in `keys` remembered."""
    features = [network.encode(frame[None]) for frame in frames]
    memories = {k: network.remember(features[k]) for k in keys}
    t = len(frames) - 1
    return sum(network.decode(features[t], *(memories[i] for i in reads)) for reads in network.reads(t, keys))


@pytest.mark.parametrize("size", [(64, 96), (90, 70), (32, 32)])
def test_stages_give_logits_of_the_frame(made, size):
    name, backbone, _, network = made
    with torch.no_grad():
        logits = answer(network, torch.randn(2, 3, *size), [0])
    stride = 8 if "resnet" in backbone or name == "msaf" else 4
    # CFFM and MRCFA double a map at 1/8, so that an odd size differs by one
    assert all(abs(found - side / stride) <= 1.5 for found, side in zip(logits.shape[2:], size, strict=True))
    assert logits.shape[:2] == (1, 5)
    assert torch.isfinite(logits).all()


def test_batch_norms_fold_into_the_convolutions_before_them(made):
    torch.manual_seed(0)
    network = copy.deepcopy(made[-1])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    folded = fold_batch_norms(network)
    left = [key for key, module in folded.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(key.endswith(("linear_fuse.bn", "fusion.norm")) for key in left), left
    frames = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected, found = (answer(n, frames, [0]) for n in (network, folded))
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_few_steps_lower_the_loss(made):
    torch.manual_seed(0)
    name, network = made[0], copy.deepcopy(made[-1]).train()
    optimiser = torch.optim.SGD(network.parameters(), 1e-2)
    count = {"cffm": 4, "mrcfa": 4, "msaf": 3}.get(name, 3 if "stf" in name else 2)
    frames = torch.randn(2, count, 3, 32, 32)
    labels = torch.randint(0, 3, (2, count, 4, 4)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    losses = []
    for _ in range(3):
        loss = network.loss({"frames": frames, "labels": labels})["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_loss_of_a_batch_without_labels_is_zero_and_finite():
    network = build("segformer", "mit_b0", 3)
    frames = torch.randn(1, 1, 3, 64, 64)
    loss = network.loss({"frames": frames, "labels": torch.full((1, 1, 64, 64), 255)})["loss"]
    assert float(loss.detach()) == 0


def test_dcfm_loss_is_the_sum_of_its_parts():
    network = build("dcfm", "mit_b0", 3)
    labels = torch.randint(0, 3, (1, 2, 64, 64))
    parts = network.loss(
        {"frames": torch.randn(1, 2, 3, 64, 64), "labels": labels}, nonkey=0.2, consistency=5.0
    )
    expected = parts["key"] + 0.2 * parts["nonkey"] + 5 * parts["consistency"]
    assert torch.allclose(parts["loss"], expected)


@pytest.mark.parametrize(
    ("t", "keys", "passes"),
    [
        (3, [0], [(0,)]),
        (3, [0, 3], [(3,)]),
        (3, [0, 5], [(0,), (5,)]),
        (3, [5], [(5,)]),
        (5, [0, 5, 9], [(5,)]),
    ],
)
def test_dcfm_reads_the_last_key_and_looking_ahead_the_next(t, keys, passes):
    assert build("dcfm", "mit_b0", 3).reads(t, keys) == passes


def test_streaming_equals_the_whole_clip(made, rng):
    """Each frame answered from frames encoded and remembered one by one, as the paper's offsets name them."""
    name, _, options, network = made
    size, base = (64, 96), name.removeprefix("mar+")
    count = max(OLDER.get(base, [0])) + 3
    frames = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    stream = Stream(make_backend(Model(network, size), "torch"), FixedInterval(1))
    results = list(stream.run((frame, t / 30) for t, frame in enumerate(frames)))
    assert [r.index for r in results] == list(range(len(frames)))
    last = len(frames) - 1
    x = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - tensor(IMAGENET_MEAN)) / tensor(IMAGENET_STD)
    with torch.no_grad():
        features = [network.encode(frame[None]) for frame in x]
        memories = [network.remember(f) for f in features]
        for t, result in enumerate(results):
            if base in OLDER:
                read = [max(t - offset, 0) for offset in OLDER[base]]
            elif base == "stf":
                offsets = (-2, -1) if options.get("causal") else (-1, 1)
                read = [min(max(t + offset, 0), last) for offset in offsets]
            else:
                read = [t] if base == "dcfm" else []
            logits = network.decode(features[t], *(memories[i] for i in read))
            full = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            assert (result.labels != full.argmax(1)[0].numpy()).mean() < 1e-3


@pytest.mark.parametrize(
    ("name", "options", "offsets", "warm_up"),
    [
        ("cffm", {}, (-9, -6, -3), 9),
        ("mrcfa", {}, (-9, -6, -3), 9),
        ("msaf", {}, (-2, -1), 2),
        ("stf", SMALL_GRID, (-1, 1), 1),
        ("stf", {**SMALL_GRID, "causal": True}, (-2, -1), 2),
        ("mar+stf", SMALL_GRID, (-1, 1), 1),
        ("dcfm", {}, (0,), 0),
    ],
)
def test_warm_up_frames(name, options, offsets, warm_up):
    """From frame `warm_up` on a network reads exactly what its paper says; before, some frame stands in."""
    backbone = "mit_b0" if name in ("cffm", "mrcfa", "dcfm") else "resnet18"
    with torch.device("meta"):
        network = build(name, backbone, 3, **options)
    for t in range(20):
        keys = range(t + network.lookahead + 1)
        read = network.reads(t, keys)
        assert set(*read) <= set(keys)
        assert (read == [tuple(t + offset for offset in offsets)]) == (t >= warm_up)


def test_networks_that_read_neighbours_remember_every_frame():
    with torch.device("meta"):
        own = {name: build(name, backbone, 3).interval for name, backbone, options in EVERY}
    assert own == {name: 5 if name.endswith("dcfm") else 1 for name in own}


def test_references_may_come_from_keyframes_only(rng):
    """MSAF at interval 3: frame 8 reads the keyframes 3 and 6."""
    torch.manual_seed(0)
    network = build("msaf", "resnet18", 5).eval()
    frames = rng.integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
    stream = Stream(make_backend(Model(network, (64, 96)), "torch"), FixedInterval(3))
    results = list(stream.run((frame, t / 30) for t, frame in enumerate(frames)))
    assert [r.index for r in results if r.is_keyframe] == [0, 3, 6]
    x = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - tensor(IMAGENET_MEAN)) / tensor(IMAGENET_STD)
    with torch.no_grad():
        features = [network.encode(frame[None]) for frame in x]
        logits = network.decode(features[8], network.remember(features[3]), network.remember(features[6]))
    full = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    assert (results[8].labels != full.argmax(1)[0].numpy()).mean() < 1e-3


def tensor(values):
    return torch.tensor(values).view(1, 3, 1, 1)


@pytest.mark.parametrize("wide", [False, True])
def test_affinities_in_channels_equal_a_batch_of_images(wide):
    """SAR and MAA as published: the affinity to each token is an image of its own."""
    torch.manual_seed(0)
    affinities = Affinities(wide).eval()
    for parameter in affinities.parameters():
        torch.nn.init.normal_(parameter)
    a4, a3, a2 = (torch.randn(2, 7, 5 << i, 6 << i) for i in range(3))

    def plain(layers, x):
        for conv, norm, _ in zip(*[iter(layers)] * 3, strict=True):
            x = torch.nn.functional.conv2d(x, conv.conv2.weight, conv.conv2.bias, padding=conv.conv2.padding)
            x = torch.nn.functional.group_norm(x, 1, norm.weight, norm.bias).relu()
        return x

    def up(x):
        return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)

    def images(x):
        return x.flatten(0, 1)[:, None]

    with torch.no_grad():
        b = plain(affinities.encoder_layer4, images(a4))
        b = plain(affinities.encoder_layer4to3, up(b) + plain(affinities.encoder_layer3, images(a3)))
        b = plain(affinities.encoder_layer3to2, up(b) + plain(affinities.encoder_layer2, images(a2)))
        found = affinities(a4, a3, a2)
    assert torch.allclose(found, b.unflatten(0, (2, 7))[:, :, 0], atol=1e-4)


def test_learned_positions_are_resized_as_the_authors_do():
    position = torch.randn(1, 4, 3, 8, 16)
    expected = torch.nn.functional.interpolate(
        position, size=(3, 13, 9), mode="trilinear", align_corners=False
    )
    assert torch.allclose(resized(position, (13, 9)), expected.permute(0, 2, 3, 4, 1), atol=1e-6)


@pytest.mark.slow
def test_msaf_never_holds_an_attention_matrix():
    """At 1024×2048 the current frame has 32,768 tokens: 4 GiB a head, were the matrix written out."""
    code = """
        import torch
        from vss_ros.networks import build
        network = build("msaf", "resnet18", 19).eval()
        features = [torch.randn(1, 128, 128, 256) for _ in range(4)]
        with torch.inference_mode():
            memory = network.remember(features)
            assert network.decode(features, memory, memory).shape == (1, 19, 128, 256)
        status = open("/proc/self/status").read()  # its own peak; that of getrusage may be its parent's
        print(status.split("VmHWM:")[1].split()[0])  # KiB
    """
    result = run_python(textwrap.dedent(code))
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 2.5 * 2**20


def test_deformable_convolution_equals_a_plain_loop():
    torch.manual_seed(0)
    x, offset = torch.randn(1, 4, 5, 6), 1.5 * torch.randn(1, 18, 5, 6)
    weight, bias = torch.randn(3, 4, 3, 3), torch.randn(3)

    def read(y, z):
        """Bilinear value of x at row y, column z; zero outside."""
        total = torch.zeros(4)
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(z)), int(np.floor(z)) + 1):
                if 0 <= row < 5 and 0 <= column < 6:
                    total += x[0, :, row, column] * (1 - abs(y - row)) * (1 - abs(z - column))
        return total

    expected = torch.empty(1, 3, 5, 6)
    for i in range(5):
        for j in range(6):
            value = bias.clone()
            for tap in range(9):
                down, right = offset[0, 2 * tap, i, j].item(), offset[0, 2 * tap + 1, i, j].item()
                value += weight[:, :, tap // 3, tap % 3] @ read(
                    i + tap // 3 - 1 + down, j + tap % 3 - 1 + right
                )
            expected[0, :, i, j] = value
    assert torch.allclose(deformable_conv(x, offset, weight, bias), expected, atol=1e-5)


def test_deformable_convolution_without_offsets_is_a_convolution():
    x, weight, bias = torch.randn(2, 4, 7, 5), torch.randn(3, 4, 3, 3), torch.randn(3)
    expected = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    assert torch.allclose(deformable_conv(x, torch.zeros(2, 18, 7, 5), weight, bias), expected, atol=1e-5)
