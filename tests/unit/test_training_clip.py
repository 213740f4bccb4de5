"""The CLIP task with small towers: pictures, captions, and captions that are wrong in one word."""

from functools import partialmethod

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import TextEncoder, Tokenizer
from minisd.emoji.clip import CLIP, contrastive_loss
from minisd.emoji.scene import BACKGROUNDS, Scene
from minisd.emoji.world import EmojiData
from minisd.training import clip
from minisd.training.clip import CLIPTask, Options
from minisd.training.loop import make_batch, make_optimizers, train
from minisd.training.task import HELD_OUT
from tests.tiny import CAPTIONS
from tests.toy import TEXT_CONFIG, Toy, log, names_in, settings


@pytest.fixture(autouse=True)
def tiny_and_quick(monkeypatch):
    monkeypatch.setattr(clip, "tokenizer_corpus", lambda seed: [*CAPTIONS, 9 * ("zebra ", "quokka ")[seed]])
    monkeypatch.setattr(clip, "VOCAB_SIZE", 530)
    monkeypatch.setattr(clip, "MINI", TEXT_CONFIG)


@pytest.fixture
def task(world) -> CLIPTask:
    return CLIPTask(Options(), world)


def test_trains_shows_and_exports(task, tmp_path, monkeypatch, capsys):
    for name in ("retrieval", "told_apart"):
        monkeypatch.setattr(CLIPTask, name, partialmethod(getattr(CLIPTask, name), count=2))
    train(task, settings(steps=2), tmp_path, quiet=True)
    assert len(set(log(tmp_path))) == 2
    with Image.open(tmp_path / "picture-0000002.png") as picture:
        assert picture.size == (64 * 6, 64 * 6)
    assert "captions wrong in one word told apart" in (tmp_path / "scores.csv").read_text()
    said = capsys.readouterr().out
    assert all(f"{kind} " in said for kind in clip.KINDS)
    again = CLIP.from_pretrained(tmp_path / "clip", TextEncoder.from_pretrained(tmp_path / "text_encoder"), 64)
    average = torch.load(tmp_path / "state.pt")["average"]
    for name, tensor in again.state_dict().items():
        kept = average[f"clip.{name}"]
        assert torch.equal(tensor, kept if name.startswith("text_encoder") else kept.half())
    assert Tokenizer.from_pretrained(tmp_path / "tokenizer").vocab == task.tokenizer.vocab


def test_the_tokenizer_is_that_of_the_corpus(world):
    one, other = (CLIPTask(Options(), world, seed) for seed in (0, 1))
    assert one.tokenizer.vocab == Tokenizer.train([*CAPTIONS, 9 * "zebra "], 530).vocab
    assert one.clip.text_encoder.config.eos_token_id == one.tokenizer.end_id
    assert one.config()["vocabulary"] != other.config()["vocabulary"]


def test_a_run_with_other_captions_is_not_resumed(task, world, tmp_path, monkeypatch):
    monkeypatch.setattr(CLIPTask, "picture", Toy.picture)
    monkeypatch.setattr(CLIPTask, "export", lambda self, folder: "")
    monkeypatch.setattr(CLIPTask, "score", lambda self: None)
    train(task, settings(steps=1), tmp_path, quiet=True)
    monkeypatch.setattr(clip, "tokenizer_corpus", lambda seed: ["other words entirely", *CAPTIONS[1:]])
    with pytest.raises(ValueError, match="was trained with config vocabulary="):
        train(CLIPTask(Options(), world), settings(steps=2), tmp_path, resume=True, quiet=True)


def test_all_kernels_but_the_first_and_last_are_muons(task):
    muon, adamw = make_optimizers(task, settings(), torch.float32)
    assert names_in(adamw, task, dimensions=2) == {
        f"clip.{name}.weight" for name in (
            "text_encoder.text_model.embeddings.token_embedding",
            "text_encoder.text_model.embeddings.position_embedding", "text_projection", "image_encoder.features.0",
            "image_encoder.projection")}
    assert names_in(adamw, task, dimensions=1) == {name for name, p in task.named_parameters() if p.ndim < 2}
    assert "clip.logit_scale" in names_in(adamw, task)
    assert names_in(muon, task) == {name for name, _ in task.named_parameters()} - names_in(adamw, task)


def test_loss_is_contrastive_with_wrong_captions(task, monkeypatch):
    asked, vectors = [], torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=-1)
    monkeypatch.setattr(task, "embed", lambda *given: asked.append(given) or tuple(vectors))
    task.seed = 3
    batch = make_batch(settings(), 2)
    text, images, wrong = vectors
    torch.testing.assert_close(task(batch), contrastive_loss(text, images, task.clip.scale(), wrong))
    assert asked == [(list(range(16, 24)), 3, "train")]


def test_embedded_are_captions_pictures_and_wrong_captions(task, world):
    with torch.no_grad():
        text, images, wrong = task.embed(range(4, 12), 3, "train")
        pictures, captions, scenes = world.batch(range(4, 12), 3, "train", 64)
        torch.testing.assert_close(text, task.clip.embed_text(task.tokenizer(captions)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(images, task.clip.embed_images(pictures), rtol=1e-4, atol=1e-5)
        others = [task.wrong_caption(scene, np.random.default_rng((3, i))) for i, scene in enumerate(scenes, 4)]
        torch.testing.assert_close(wrong, task.clip.embed_text(task.tokenizer(others)), rtol=1e-4, atol=1e-5)


def test_wrong_captions_are_never_right(task, world):
    for i in range(200):
        scene = world.scene(np.random.default_rng(i))
        assert task.wrong_caption(scene, np.random.default_rng(i)) != world.caption(scene)
    plain = Scene("pizza", size="small", says_style=False, says_background=False)
    wrong = [task.wrong_caption(plain, np.random.default_rng(i)) for i in range(1000)]
    assert "a small pizza" not in wrong
    assert len(set(wrong)) > 150  # each of the 175 others takes its turn
    pair = Scene("pizza", other="rocket", says_style=False, says_background=False)
    wrong = [task.wrong_caption(pair, np.random.default_rng(i)) for i in range(1000)]
    assert all(caption.endswith(" and a rocket") for caption in wrong)
    assert not {"a pizza and a rocket", "a rocket and a rocket"} & set(wrong)


# --- how good it is -------------------------------------------------------------------------------------------


def knows_backgrounds(task: CLIPTask) -> None:
    """Two towers that know about plain grounds, and nothing else."""
    def tokenizer(captions):
        return torch.tensor([[f" {word} background" in caption for word in BACKGROUNDS] for caption in captions])

    def embed_images(images):
        corners = images[:, :, ::63, ::63].flatten(2).transpose(1, 2)  # (B, 4, 3)
        palette = torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1
        return (corners[:, :, None] - palette).abs().sum(dim=-1).lt(0.02).all(dim=1).float()

    task.tokenizer, task.clip.embed_text, task.clip.embed_images = tokenizer, torch.Tensor.float, embed_images


def test_told_apart_asks_for_the_word_that_differs(task, monkeypatch):
    monkeypatch.setattr(EmojiData, "caption", lambda self, scene: f"a {scene.background} background"
                        if scene.pattern == "plain" else "")
    knows_backgrounds(task)
    plain = task.told_apart("background", count=48)
    assert 0.5 < plain < 0.8  # six grounds in ten are plain
    assert task.told_apart("style", count=16) == 0
    assert task.told_apart(count=48) < plain


def test_told_apart_looks_at_new_held_out_pictures(task, monkeypatch):
    asked, batch = [], EmojiData.batch
    monkeypatch.setattr(EmojiData, "batch", lambda self, *given: asked.append(given) or batch(self, *given))
    assert 0 <= task.told_apart("relation", count=4) <= 1
    assert len(asked) > 1  # few scenes have one above another
    assert asked == [(range(4 * i, 4 * i + 4), HELD_OUT, "heldout", 64) for i in range(len(asked))]


def test_retrieval_counts_captions_that_find_their_picture(task, monkeypatch):
    asked, own = [], torch.eye(8)

    def embed(indices, seed, split):
        asked.append((indices, seed, split))
        return own, torch.cat([torch.eye(8)[:6], torch.zeros(2, 8)]), own

    monkeypatch.setattr(task, "embed", embed)
    assert task.retrieval("train", count=8) == 0.75
    assert asked == [(range(8), HELD_OUT, "train")]


def test_it_says_how_good_it_is(task, tmp_path, monkeypatch):
    shares = {kind: (1 + i) / 10 for i, kind in enumerate(clip.KINDS)}
    monkeypatch.setattr(task, "retrieval", {"train": 0.9, "heldout": 0.8}.__getitem__)
    monkeypatch.setattr(task, "told_apart", shares.__getitem__)
    said = task.export(tmp_path)
    assert "90.0% find their picture among new scenes, 80.0% among held-out combinations" in said
    assert said.endswith(", ".join(f"{kind} {share:.1%}" for kind, share in shares.items()))


def test_picture_is_the_table_of_similarities(task, monkeypatch):
    text, images = torch.eye(64), torch.eye(64).roll(1, dims=0)
    monkeypatch.setattr(task, "embed", lambda *given: (text, images, text))
    shown = task.picture()
    assert shown.getpixel((6 * 5 + 3, 6 * 4 + 3)) == (255, 255, 255)  # caption 4, down, is that of picture 5, across
    assert shown.getpixel((6 * 4 + 3, 6 * 5 + 3)) == (128, 128, 128)
