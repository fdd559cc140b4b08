import pytest
import torch

from delineate.data import open_source
from delineate.data.demo import make_streets
from delineate.training.datamodule import DataModule, Seeded
from delineate.training.settings import Settings


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source(make_streets(tmp_path_factory.mktemp("data") / "streets", n_train=9, n_val=3, size=(80, 100)))


def batches(source, seed=0, **settings):
    return list(DataModule(source, Settings(batch_size=4, **settings), seed).train_dataloader())


def test_batches_depend_on_the_seed_and_not_on_the_workers(source):
    first, again, other = batches(source, workers=0), batches(source, workers=1), batches(source, seed=1, workers=0)
    assert [batch["id"] for batch in first] == [batch["id"] for batch in again]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert [batch["id"] for batch in first] != [batch["id"] for batch in other]


def test_global_random_state_neither_matters_nor_moves(source):
    torch.manual_seed(1)
    first = batches(source, workers=0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = batches(source, workers=0)
    assert all(torch.equal(a["mask"], b["mask"]) for a, b in zip(first, again, strict=True))
    sample = Seeded(DataModule(source, Settings(workers=0), 0).train_set, 0)
    torch.set_rng_state(state)
    _ = sample[0, 0]
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_changes_with_the_epoch_and_the_seed(source):
    train_set = DataModule(source, Settings(), 0).train_set
    images = [Seeded(train_set, seed)[epoch, 3]["image"] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_shapes(source):
    data = DataModule(source, Settings(batch_size=2, workers=0), 0)
    assert data.crop == (64, 96)
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert train["image"].shape == (2, 3, 64, 96)
    assert val["image"].shape == (2, 3, 96, 128)  # 80 x 100, padded to multiples of 32
    assert (val["mask"][:, 80:] == source.pad_label).all()
    assert (val["mask"][:, :, 100:] == source.pad_label).all()


def test_more_images_than_there_are(source):
    with pytest.raises(ValueError, match=r"--batch_size 10.*9 images"):
        DataModule(source, Settings(batch_size=10), 0)
