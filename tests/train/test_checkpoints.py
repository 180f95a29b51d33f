"""Checkpoints of a run: the last two are kept, and what is damaged or foreign is refused with what to do."""

import zipfile

import pytest
import torch
from vss_ros.config import VssError
from vss_ros.networks import build
from vss_ros.networks.cards.card import ModelCard, load_model, save_model
from vss_ros.networks.cards.weights import read_state
from vss_ros.train.checkpoints import load, load_initial, previous, resume, save
from vss_ros.train.recipe import Recipe

RECIPE = Recipe("dcfm", "mit_b0", "camvid", (64, 96), (64, 64), batch=2, steps=4, lr=1e-3)


@pytest.fixture
def run(tmp_path):
    """A path, a network, and `write(**changes)` of a checkpoint of them."""
    import dataclasses

    torch.manual_seed(0)
    network = build("dcfm", "mit_b0", 3)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    path = tmp_path / "last.ckpt"

    def write(**changes):
        parts = {name: part.state_dict() for name, part in (("network", network), ("optimiser", optimiser))}
        state = {"step": 2, "best": 0.5, "seconds": 1.0, "recipe": dataclasses.asdict(RECIPE)}
        save(path, {**parts, "average": parts["network"], **state, **changes})
        return path

    return path, network, optimiser, write


def test_the_last_two_are_kept(run):
    path, _, _, write = run
    for step in (1, 2, 3):
        write(step=step)
    assert load(path, RECIPE)["step"] == 3 and load(previous(path), RECIPE)["step"] == 2
    assert len(list(path.parent.iterdir())) == 2


def test_a_flipped_bit_is_seen_and_the_one_before_is_named(run):
    path, _, _, write = run
    write()
    write()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in the middle of a tensor: torch itself reads it without a word
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(
        VssError, match=r"checksum .* is wrong; the one before it is .*last\.previous\.ckpt: rename"
    ):
        load(path, RECIPE)
    previous(path).replace(path)
    assert load(path, RECIPE)["step"] == 2


@pytest.mark.parametrize("length", [0, 1, 100, 1 << 16, -1, -100])
def test_a_cut_one_is_refused(run, length):
    path = run[3]()
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(VssError, match="damaged"):
        load(path, RECIPE)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": 5},
        {"step": 1.5},
        {"step": torch.zeros(2)},
        {"best": float("nan")},
        {"seconds": "long"},
        {"recipe": {}},
        {"recipe": 3},
        {"recipe": {**vars(RECIPE), "lr": torch.zeros(3)}},
        {"network": 3},
        {"network": {}},
        {"network": {"x": torch.zeros(1)}},
        {"average": []},
        {"optimiser": {}},
        {"optimiser": {"state": {}, "param_groups": []}},
        {"extra": torch.zeros(1).expand(1 << 40)},
        {"extra": torch.zeros(2, 2).to_sparse()},
    ],
)
def test_foreign_ones_are_refused(run, changes):
    path, network, optimiser, write = run
    write(**changes)
    with pytest.raises(VssError, match=str(path)):
        resume(path, network, network, optimiser, RECIPE)


def test_an_optimiser_of_other_shapes_is_refused(run):
    path, network, optimiser, write = run
    state = optimiser.state_dict()
    state["state"][0]["momentum_buffer"] = torch.zeros(7)
    write(optimiser=state)
    with pytest.raises(VssError, match="other shapes"):
        resume(path, network, network, optimiser, RECIPE)


def test_tensors_of_an_optimiser_that_share_memory_are_taken_apart(run):
    path, network, optimiser, write = run
    state = optimiser.state_dict()
    first, second = list(network.parameters())[:2]
    stored = torch.zeros(second.numel() + first.numel())
    state["state"][0]["momentum_buffer"] = stored.as_strided(first.shape, [0] * first.dim())
    state["state"][1]["momentum_buffer"] = stored[: second.numel()].view(second.shape)
    write(optimiser=state)
    resume(path, network, network, optimiser, RECIPE)
    optimiser.step()  # torch refuses to write into what overlaps
    assert (optimiser.state[first]["momentum_buffer"] == 1).all()
    assert (optimiser.state[second]["momentum_buffer"] == 1).all()


def test_a_zip_that_inflates_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"x": torch.zeros(1 << 20)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for item in plain.infolist():
            bomb.writestr(item.filename, plain.read(item))
    with pytest.raises(VssError, match="states more bytes than it holds"):
        load_initial(build("dcfm", "mit_b0", 3), str(path))


@pytest.mark.parametrize("content", [{"a": 1}, [1], {"a": {"b": torch.zeros(1)}}, {1: torch.zeros(1)}])
def test_weights_to_start_from_are_tensors_by_name(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(VssError, match=r"init: .*a\.pth"):
        load_initial(build("dcfm", "mit_b0", 3), str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    "spoil", [lambda t: t * float("nan"), lambda t: t / 0, lambda t: t.to(torch.complex64)]
)
def test_weights_that_are_no_finite_numbers_are_no_start(tmp_path, spoil):
    network = torch.nn.Linear(2, 2)
    state = network.state_dict()
    torch.save({**state, "weight": spoil(state["weight"])}, tmp_path / "a.pth")
    with pytest.raises(VssError, match=r"init: .*weight holds values that are no finite real numbers"):
        load_initial(network, str(tmp_path / "a.pth"))


def test_weights_and_statistics_are_averaged_and_indices_stay():
    from torch.optim.swa_utils import AveragedModel
    from vss_ros.networks import build
    from vss_ros.train.loop import update_average

    network = build("cffm", "mit_b0", 3, width=32)
    average = AveragedModel(network)
    tables = [buffer.clone() for name, buffer in average.named_buffers() if "relative" in name]
    state = network.state_dict()
    names = ("head.linear_fuse.bn.running_mean", "linear_pred.weight")
    for step in range(3):  # the first step is copied
        for name in names:
            state[name].fill_(float(step))
        state["head.linear_fuse.bn.num_batches_tracked"].fill_(step)
        update_average(average, network, 0.9)
    held = average.module.state_dict()
    for name in names:
        assert torch.allclose(held[name], torch.tensor(0.1 * 0.9 + 0.1 * 2)), name
    assert held["head.linear_fuse.bn.num_batches_tracked"] == 2 and average.n_averaged == 3
    kept = [buffer for name, buffer in average.named_buffers() if "relative" in name]
    assert len(kept) > 3 and all(torch.equal(a, b) for a, b in zip(tables, kept, strict=True))


@pytest.mark.parametrize("parts", ["backbone", "backbone+head"])
def test_parts_of_a_model_are_a_start(tiny_card, caplog, parts):
    caplog.set_level("INFO")
    network, before = build("dcfm", "mit_b0", 7), build("dcfm", "mit_b0", 7)
    before.load_state_dict(network.state_dict())
    load_initial(network, f"{parts}:{tiny_card}")
    expected = load_model(tiny_card)[0].state_dict()
    for name, value in network.state_dict().items():
        of = expected if name.split(".")[0] in parts.split("+") else before.state_dict()
        assert torch.equal(value, of[name])
    assert "new: " in caplog.text and "classifier" in caplog.text


@pytest.mark.parametrize("parts", ["hed", "backbone+hed", "backbone+head+pspnet"])
def test_a_part_that_the_model_has_not_is_named(tiny_card, parts):
    part = next(part for part in parts.split("+") if part not in ("backbone", "head"))
    with pytest.raises(
        VssError, match=rf"has no {part}: expected some of backbone, head" if "+" in parts else part
    ):
        load_initial(build("dcfm", "mit_b0", 7), f"{parts}:{tiny_card}")


@pytest.mark.parametrize("network", ["pspnet", "stf", "mar+pspnet"])
@pytest.mark.parametrize("init", ["{}", "backbone:{}", "imagenet:{}/imagenet.pth"])
def test_networks_that_hold_another_start_from_what_fits_that(tmp_path, network, init):
    donor = build("pspnet", "resnet18", 3)
    names = {"layer0.0.": "conv1.", "layer0.1.": "bn1."}
    renamed = {names.get(k[:9], k[:9]) + k[9:]: v for k, v in donor.backbone.state_dict().items()}
    torch.save(renamed, tmp_path / "imagenet.pth")
    about = {"name": "a", "network": "pspnet", "backbone": "resnet18", "classes": list("abc"), "licence": ""}
    about |= {"palette": [[0, 0, 0]] * 3, "size": [64, 96], "weights": "a.safetensors", "sha256": ""}
    card = save_model(donor, ModelCard(**about), tmp_path)
    fresh = build(network, "resnet18", 3)
    load_initial(fresh, init.format(tmp_path if "pth" in init else card))
    state = fresh.state_dict()
    assert {name.split("backbone.")[1] for name in state if "backbone." in name} == set(
        donor.backbone.state_dict()
    )
    for name, value in donor.backbone.state_dict().items():
        found = next(state[k] for k in state if k.endswith(f"backbone.{name}"))
        assert torch.allclose(found, value, atol=1e-3), name  # a model is stored in float16


def test_more_tensors_than_are_read_in_seconds_are_refused_at_once(tmp_path, monkeypatch):
    path = tmp_path / "many.pth"
    torch.save({f"t{i}": torch.zeros(1) for i in range(50)}, path)
    assert len(read_state(path)) == 50
    monkeypatch.setattr("vss_ros.networks.cards.weights.TENSORS", 40)
    with pytest.raises(VssError, match="expected at most 40 tensors"):
        read_state(path)
    torch.save({"numbers": list(range(1 << 22))}, path)
    with pytest.raises(VssError, match=r"at most 4194304 bytes; got .* parts and .* bytes"):
        read_state(path)
    monkeypatch.undo()
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert read_state(path)["a"].sum() == 3
    monkeypatch.setattr("vss_ros.networks.cards.weights.Counted.left", 1000)
    path.write_bytes(b"\x80\x02" + b"(" * 2000)  # of the old format, which has no list of its parts
    with pytest.raises(VssError, match="expected torch's old format to name its tensors in 1000000 pieces"):
        read_state(path)
