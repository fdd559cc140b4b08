import pytest
import torch
from torch import nn

from delineate.training.models import build_model


class TinyNet(nn.Module):
    """A network of one's own, found by its import path."""

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.head = nn.Conv2d(in_channels, classes, 1)

    def forward(self, images):
        return self.head(images)


@pytest.mark.parametrize("name", ["small-unet", "FPN", "linknet", "training.test_models.TinyNet"])
def test_logits_have_the_size_of_the_image(name):
    model = build_model(name, 5).eval()
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 5, 64, 96)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "Unnet"}, ["--model Unnet", "small-unet", "DeepLabV3Plus"]),
        ({"name": "torch.nn.Nothing"}, ["--model torch.nn.Nothing", "in_channels=3"]),
        ({"name": "torch.nn.Linear"}, ["--model torch.nn.Linear", "in_channels=3"]),
        ({"name": "Unet", "encoder": "resnet7"}, ["--encoder resnet7", "resnet18"]),
        ({"name": "Unet", "weights": "missing.pth"}, ["--weights missing.pth", "state dict"]),
    ],
)
def test_bad_input_is_told_in_one_line(options, words):
    with pytest.raises(ValueError, match="--") as error:
        build_model(classes=3, **options)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_local_weights_are_loaded(tmp_path):
    saved, path = build_model("small-unet", 3), tmp_path / "weights.pth"
    torch.save(saved.state_dict(), path)
    loaded = build_model("small-unet", 3, weights=str(path))
    for ours, theirs in zip(loaded.state_dict().values(), saved.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="state dict of this network"):
        build_model("small-unet", 4, weights=str(path))


class Harmful:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_weights_that_would_run_code_are_refused(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": Harmful()}, path)
    with pytest.raises(ValueError, match="not a file of plain weights"):
        build_model("small-unet", 3, weights=str(path))
    assert "never" not in capsys.readouterr().out
