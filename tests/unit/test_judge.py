"""The judge's network, and its training task."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from minisd.emoji.judge import AT_ONCE, Judge, Scores
from minisd.emoji.scene import Scene
from minisd.emoji.world import EmojiData
from minisd.training import loop
from minisd.training.judge import SHIFT, JudgeTask, Options, augment, labels

SMALL = {"concepts": ["a", "b"], "styles": ["x", "y"], "channels": [8, 8, 16]}


@pytest.fixture(scope="module")
def data():
    return EmojiData("core")


def batch_of(count, seed=0):
    return loop.Batch(list(range(count)), count, slice(0, count), torch.Generator().manual_seed(seed))


def test_it_scores_all_words_and_sums_up_the_places():
    torch.manual_seed(0)
    judge = Judge(**SMALL)
    scores = judge(torch.rand(3, 3, 128, 128))
    assert [tuple(part.shape) for part in scores] == [(3, 2), (3, 2), (3, 5), (3, 5), (3, 2, 8, 8)]
    assert torch.allclose(scores.concept, scores.places.exp().sum(dim=(2, 3)).log())
    assert judge.features(torch.rand(AT_ONCE + 1, 3, 128, 128)).shape == (AT_ONCE + 1, 16)
    assert scores.concept.sigmoid().max() < 0.1  # before any training, nothing is likely to be there


@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 3, 64, 64), (1, 4, 128, 128)])
def test_it_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"must be \(B, 3, 128, 128\)"):
        Judge(**SMALL)(torch.zeros(shape))


def test_it_says_what_is_there_and_at_which_height(monkeypatch):
    places = torch.full((1, 2, 8, 8), -20.0)
    places[0, 0, 1, 6] = 3.0          # the first in the second of eight rows
    places[0, 1, 7, :2] = -1.0        # the second, perhaps, in the last
    scores = Scores(places.flatten(2).logsumexp(dim=2), torch.tensor([[0.0, 1.0]]),
                    torch.tensor([[0.0, 0.0, 5.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 2.0, 0.0]]), places)
    judge = Judge(**SMALL)
    monkeypatch.setattr(judge, "forward", lambda pixels: scores)
    answers = judge.look(torch.zeros(1, 3, 128, 128))
    assert answers.concepts[0].tolist() == pytest.approx([1 / (1 + np.exp(-3)), 2 * np.exp(-1) / (1 + 2 * np.exp(-1))],
                                                         abs=1e-5)
    assert (answers.style, answers.worn, answers.pattern) == (["y"], ["crown"], ["checked"])
    assert answers.heights[0].tolist() == pytest.approx([1.5 / 8, 7.5 / 8], abs=1e-5)


def test_it_looks_at_many_pictures_in_parts():
    torch.manual_seed(0)
    judge, pictures = Judge(**SMALL), torch.rand(AT_ONCE + 2, 3, 128, 128) * 2 - 1
    together, alone = judge.look(pictures), judge.look(pictures[-2:])
    assert torch.allclose(together.concepts[-2:], alone.concepts, atol=1e-6)
    assert together.style[-2:] == alone.style
    assert torch.allclose(judge.features(pictures)[-2:], judge.features(pictures[-2:]), atol=1e-6)


def test_it_saves_and_opens(tmp_path):
    torch.manual_seed(0)
    judge, pixels = Judge(**SMALL), torch.rand(2, 3, 128, 128)
    judge.save_pretrained(tmp_path)
    again = Judge.from_pretrained(tmp_path)
    assert again.config == judge.config
    with torch.no_grad():
        for ours, theirs in zip(judge(pixels), again(pixels)):
            assert torch.equal(ours, theirs)


def test_labels_are_the_scenes(data):
    config = Judge.of(data).config
    scenes = [Scene("panda", "flat", worn="crown"),
              Scene("pizza", other="rocket", style="sticker", pattern="dotted", background="red", second="white")]
    concepts, style, worn, pattern = labels(config, scenes)
    assert [{config.concepts[i] for i in row.nonzero()} for row in concepts] == [{"panda"}, {"pizza", "rocket"}]
    assert [config.styles[i] for i in style] == ["flat", "sticker"]
    assert [config.worn[i] for i in worn] == ["crown", ""]
    assert [config.patterns[i] for i in pattern] == ["plain", "dotted"]


def test_pictures_are_degraded_only_a_little_and_the_same_each_time(data):
    """The shift is undone by trying all of them; what is left of the difference is blur, stains and noise."""
    images, _, _ = data.batch(range(16), 0)
    spoilt = augment(images, batch_of(16))
    assert spoilt.shape == images.shape
    assert torch.equal(spoilt, augment(images, batch_of(16)))
    assert not torch.equal(spoilt, augment(images, batch_of(16, seed=1)))
    best = []
    for image, other in zip(images, spoilt):
        moved = [(other[:, 8 + y: 120 + y, 8 + x: 120 + x] - image[:, 8: 120, 8: 120]).abs().mean()
                 for y in range(-SHIFT, SHIFT + 1) for x in range(-SHIFT, SHIFT + 1)]
        best.append((float(min(moved)), int(np.argmin(moved))))
    assert max(error for error, _ in best) < 0.2
    assert len({shift for _, shift in best}) > 8


def test_the_loss_counts_every_part(data, monkeypatch):
    """With answers that are right, it is near nothing; each part that is wrong makes it large."""
    task = JudgeTask(Options(), data)
    _, _, scenes = data.batch(range(4), 0)
    concepts, *others = labels(task.judge.config, scenes)

    def scored(change=None):
        right = [20 * (2 * concepts - 1)] + [40.0 * torch.nn.functional.one_hot(part, size).float() for part, size in
                                            zip(others, (4, 5, 5))]
        if change is not None:
            right[change] = right[change].roll(1, dims=1)
        monkeypatch.setattr(task.judge, "forward", lambda pixels: Scores(*right, None))
        return float(task(batch_of(4)))

    assert scored() < 1e-3
    for part in range(4):
        assert scored(part) > 10


def test_accuracy_asks_for_all_things_of_a_picture(data, monkeypatch):
    task = JudgeTask(Options(), data)
    scenes = [data.scene(np.random.default_rng((10_000_000, 1, i)), "heldout") for i in range(30)]

    def look(pictures, scenes):
        config = task.judge.config
        concepts, style, worn, pattern = labels(config, scenes)
        return type("Answers", (), {
            "concepts": concepts, "style": [config.styles[i] for i in style],
            "worn": [config.worn[i] for i in worn], "pattern": [config.patterns[i] for i in pattern]})

    monkeypatch.setattr(task.judge, "look", lambda pictures: look(pictures, scenes))
    assert task.accuracy(30) == {"things": 1, "style": 1, "worn": 1, "pattern": 1}
    lost = [replace(scene, other="") for scene in scenes]
    monkeypatch.setattr(task.judge, "look", lambda pictures: look(pictures, lost))
    shares = task.accuracy(30)
    assert shares["style"] == 1
    singles = np.mean([not scene.other for scene in scenes])
    assert singles <= shares["things"] < 1


def test_a_short_training_leaves_a_judge(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(JudgeTask, "accuracy", lambda self, count, original=JudgeTask.accuracy: original(self, 4))
    task = JudgeTask(Options(), data)
    loop.train(task, loop.Settings(batch_size=2, steps=1), tmp_path, quiet=True)
    assert "judge: 1,982,398 parameters; right on real held-out pictures: things" in capsys.readouterr().out
    assert Judge.from_pretrained(tmp_path / "judge").config.concepts == tuple(data.position)
    assert (tmp_path / "scores.csv").read_text().splitlines()[0].startswith("step")
    muon, adamw = loop.make_optimizers(task, loop.Settings(steps=1), torch.float32)
    assert {tuple(p.shape[-2:]) for group in muon.param_groups for p in group["params"]} == {(3, 3)}
    names = dict(task.named_parameters())
    by_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert all(id(names[name]) in by_adamw for name in ("judge.convolutions.0.weight", "judge.concept.weight",
                                                        "judge.style.weight"))
