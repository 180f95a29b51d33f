"""What a card says of a network's memory is what the network built from it does."""

import pytest
import torch
from fixtures.paths import run_python
from vss_ros.config import VssError
from vss_ros.networks import NETWORKS, build
from vss_ros.networks.cards.reading import reading_of

ON = {"dcfm": "mit_b0", "segformer": "mit_b0", "cffm": "mit_b0", "mrcfa": "mit_b0"}
ON |= {"iocformer": "mobilenet_v1", "mcis": "mobilenet_v1"}
OPTIONS = [(name, {}) for name in NETWORKS]
OPTIONS += [
    ("stf", {"causal": True}),
    ("cffm", {"offsets": [6, 3], "scales": [2, 3]}),
    ("mrcfa", {"offsets": [2]}),
]
OPTIONS += [("mar+stf", {"causal": True}), ("mar+dcfm", {}), ("mar+pspnet", {})]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_card_tells_what_its_network_does(name, options):
    with torch.device("meta"):
        network = build(
            name, ON.get(name.removeprefix("mar+"), "resnet18"), 1 if name == "iocformer" else 3, **options
        )
    said = reading_of(name, options)
    for trait in ("keeps", "lookahead", "interval"):
        assert getattr(said, trait) == getattr(network, trait), trait
    assert said.moves == getattr(network, "moves", False) and not said.from_onnx
    for t in range(12):
        for keys in ([0], [t], list(range(t + 1)), list(range(t + 2)), list(range(0, t + 9, 4))):
            assert said.reads(t, keys) == network.reads(t, keys)


@pytest.mark.parametrize("offsets", [[], [3, 6], [0], 6, "963", [6, 2.5], [True], None])
def test_offsets_that_are_none(offsets):
    with pytest.raises(VssError, match="offsets: expected frames back, oldest first"):
        reading_of("cffm", {"offsets": offsets})


def test_it_is_known_without_torch():
    code = """
import sys
from vss_ros.networks.cards.model import open_model
import vss_ros.stream.load
model = open_model("street")
assert model.reading.keeps == 1 and "torch" not in sys.modules, "torch was loaded"
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
