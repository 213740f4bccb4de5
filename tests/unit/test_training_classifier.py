"""The judge's task: what its pictures differ by, and what it is told that they show."""

from functools import partialmethod

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from minisd.emoji import EmojiData
from minisd.emoji.classifier import Classifier
from minisd.training.classifier import ClassifierTask, Options, augment, labels
from minisd.training.loop import Batch, make_batch, make_optimizers, train
from minisd.training.task import HELD_OUT
from tests.toy import log, names_in, settings


@pytest.fixture(scope="module")
def data() -> EmojiData:
    return EmojiData("core")


@pytest.fixture
def task(data) -> ClassifierTask:
    task = ClassifierTask(Options(), data)
    config = task.classifier.config.to_dict() | {"channels": (8, 8, 8, 8), "features": 16}
    task.classifier = Classifier(**config)
    return task


def test_trains_shows_and_exports(task, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ClassifierTask, "accuracy", partialmethod(ClassifierTask.accuracy, count=128))
    train(task, settings(steps=3), tmp_path, quiet=True)
    assert len(set(log(tmp_path))) == 3
    with Image.open(tmp_path / "picture-0000003.png") as picture:
        assert picture.size == (12 * 64, 2 * 64)
    assert "right on real held-out pictures: concept " in capsys.readouterr().out
    again, average = Classifier.from_pretrained(tmp_path / "classifier"), torch.load(tmp_path / "state.pt")["average"]
    assert all(torch.equal(tensor, average[f"classifier.{name}"].half())
               for name, tensor in again.state_dict().items())


class Oracle(nn.Module):
    """A classifier that is sure of the first concept, the second style and the third background."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.config, self.device = classifier.config, torch.device("cpu")

    def forward(self, images):
        self.images = images
        sizes = (self.config.concepts, self.config.styles, self.config.backgrounds)
        return tuple(F.one_hot(torch.full((len(images),), i), len(words)) * 1000.0 for i, words in enumerate(sizes))


def test_loss_is_three_cross_entropies(task, data):
    task.classifier, task.seed = Oracle(task.classifier), 4
    loss = task(make_batch(settings(), 2))
    images, _, scenes = data.batch(range(16, 24), 4)
    assert torch.equal(task.classifier.images, augment(images, make_batch(settings(), 2)))
    wrong = sum(sum((scene.concept != data.concepts[0].name, scene.style != data.styles[1],
                     scene.background != list(data.backgrounds)[2])) for scene in scenes)
    assert loss.item() == pytest.approx(1000 * wrong / 8)


def test_accuracy_is_the_share_of_right_answers(task, data):
    task.classifier = Oracle(task.classifier)
    _, _, scenes = data.batch(range(256), HELD_OUT, "heldout")
    expected = (sum(scene.concept == data.concepts[0].name for scene in scenes) / 256,
                sum(scene.style == data.styles[1] for scene in scenes) / 256,
                sum(scene.background == list(data.backgrounds)[2] for scene in scenes) / 256)
    assert task.accuracy(256) == pytest.approx(expected)
    assert 0.1 < expected[1] < 0.4


def test_labels_are_places_in_the_lists_of_words(data):
    classifier = Classifier(concepts=["x", "pizza", "rocket"], styles=["flat", "3d"], backgrounds=["red", "blue"])
    scene = type("Scene", (), {"concept": "rocket", "style": "3d", "background": "red"})
    other = type("Scene", (), {"concept": "pizza", "style": "flat", "background": "blue"})
    assert [label.tolist() for label in labels(classifier, [scene, other])] == [[2, 1], [1, 0], [0, 1]]


def test_the_first_kernel_and_the_answers_are_adamws(task):
    muon, adamw = make_optimizers(task, settings(), torch.float32)
    assert names_in(adamw, task, dimensions=2) == {
        f"classifier.{layer}.weight" for layer in ("convolutions.0", "concept", "style", "background")}
    assert names_in(adamw, task, dimensions=1) == {name for name, p in task.named_parameters() if p.ndim == 1}
    assert names_in(muon, task) == {name for name, _ in task.named_parameters()} - names_in(adamw, task)


# --- augmentation ---------------------------------------------------------------------------------------------


class Fixed(Batch):
    """A batch whose numbers a test says, in the order in which they are drawn."""

    def draw(self, random, *shape):
        return next(self.generator)


def augmented(image: torch.Tensor, shift=(0.5, 0.5), blur=0.0, blurred=True, noise=0.0) -> torch.Tensor:
    one = torch.ones(1, 1, 1, 1)
    numbers = iter([torch.tensor([shift]), blur * one, one * (0.2 if blurred else 0.8), noise * one,
                    torch.full((1, 3, 64, 64), 2.0)])
    return augment(image[None], Fixed([0], 1, slice(0, 1), numbers))[0]


def test_pictures_are_shifted_by_up_to_three_pixels():
    dot = torch.zeros(3, 64, 64)
    dot[:, 30, 40] = 1
    for shift, place in (((0.5, 0.5), (30, 40)), ((0.0, 0.999), (33, 37)), ((0.999, 0.0), (27, 43))):
        assert augmented(dot, shift)[0].nonzero().tolist() == [list(place)]
    edge = torch.ones(3, 64, 64)
    assert torch.equal(augmented(edge, (0.0, 0.999)), edge)  # what comes in from outside is the edge's colour


def test_every_other_picture_is_blurred():
    dot = torch.zeros(3, 64, 64)
    dot[:, 30, 40] = 9
    assert torch.equal(augmented(dot, blur=1.0, blurred=False), dot)
    full, half = augmented(dot, blur=1.0), augmented(dot, blur=0.5)
    torch.testing.assert_close(full[0, 29:32, 39:42], torch.ones(3, 3))
    torch.testing.assert_close(half, (dot + full) / 2)


def test_noise_is_a_tenth_at_most():
    torch.testing.assert_close(augmented(torch.zeros(3, 64, 64), noise=0.5), torch.full((3, 64, 64), 0.1))


def test_each_picture_has_chances_of_its_own():
    images = torch.zeros(64, 3, 64, 64)
    images[:, :, 32:] = 1
    batch = make_batch(settings(batch_size=64), 0)
    made = augment(images, batch)
    noise = made[:, :, :20].std(dim=(1, 2, 3))
    assert noise.max().item() == pytest.approx(0.1, abs=0.01)
    assert noise.mean().item() == pytest.approx(0.05, abs=0.015)
    edges = made.mean(dim=(1, 3))  # (64, 64), of which the noise is gone
    places = (edges > 0.5).int().argmax(dim=1)
    assert set(places.tolist()) == set(range(29, 36))
    sharp = edges.diff(dim=1).max(dim=1).values
    assert 0.3 < (sharp < 0.93).float().mean().item() < 0.6
    parts = [augment(images[32 * k: 32 * k + 32], make_batch(settings(batch_size=64), 0, k, 2)) for k in range(2)]
    assert torch.equal(torch.cat(parts), made)
