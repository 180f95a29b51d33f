"""Which earlier frames CFFM and MRCFA read, and how finely, are options; MSAF may stand on PSPNet's pyramid."""

import pytest
import torch
from vss_ros.config import VssError
from vss_ros.networks import build, reads_of

SIZE = (64, 96)


@pytest.mark.parametrize(
    ("name", "backbone", "options", "reads"),
    [
        ("cffm", "mit_b0", {"offsets": [6, 3], "scales": [2, 3]}, (-6, -3)),
        ("cffm", "mit_b0", {"offsets": [4, 3, 2, 1], "scales": [1, 1, 2, 3]}, (-4, -3, -2, -1)),
        ("mrcfa", "mit_b0", {"offsets": [6, 3], "grid": 16}, (-6, -3)),
        ("mrcfa", "mit_b0", {"offsets": [2]}, (-2,)),
        ("msaf", "resnet18", {"pyramid": True}, (-2, -1)),
    ],
)
def test_other_references_go_through_decode_and_loss(name, backbone, options, reads):
    torch.manual_seed(0)
    network = build(name, backbone, 3, **options)
    assert reads_of(network) == reads
    frames = torch.randn(1, len(reads) + 1, 3, *SIZE)
    losses = network.loss(
        {"frames": frames.repeat(2, 1, 1, 1, 1), "labels": torch.ones(2, len(reads) + 1, *SIZE).long()}
    )
    losses["loss"].backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()
    with torch.no_grad():
        features = [network.encode(frame) for frame in frames[0][:, None]]
        logits = network.decode(features[-1], *(network.remember(f) for f in features[:-1]))
    assert logits.shape[:2] == (1, 3) and torch.isfinite(logits).all()


def test_mrcfa_on_cityscapes_has_the_papers_size():
    """4.2 M (B0) and 14.9 M (B1) parameters, with one of the heads; the three for training are not counted."""
    for backbone, millions in (("mit_b0", 4.22), ("mit_b1", 14.88)):
        network = build("mrcfa", backbone, 19, offsets=[6, 3], grid=16)
        spare = sum(p.numel() for head in network.deco[:-1] for p in head.parameters())
        assert (sum(p.numel() for p in network.parameters()) - spare) / 1e6 == pytest.approx(
            millions, abs=0.02
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cffm", {"offsets": [3, 6], "scales": [1, 2]}, "oldest first"),
        ("cffm", {"offsets": [6, 3]}, "scales: expected one of 1, 2, 3 for each"),
        ("mrcfa", {"grid": 8}, "expected 16 or 32"),
        ("mrcfa", {"offsets": []}, "offsets: expected frames back"),
    ],
)
def test_impossible_references_are_refused(name, options, message):
    with pytest.raises(VssError, match=message):
        build(name, "mit_b0", 3, **options)
