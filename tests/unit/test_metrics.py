"""The numbers that say how good a model is, in cases with known answers."""

import csv
from dataclasses import replace

import pytest
import torch
from PIL import Image

from minisd import StableDiffusion, cli, metrics
from minisd.emoji import evaluation
from minisd.emoji.classifier import Classifier
from minisd.emoji.data import EmojiData, Scene

CLASSIFIER = {"concepts": ["a", "b"], "styles": ["x"], "backgrounds": ["white", "blue"]}


@pytest.fixture(scope="module")
def data() -> EmojiData:
    return EmojiData("core")


def test_top_k_counts_what_is_among_the_highest():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 9.0]])
    labels = torch.tensor([0, 1, 2, 2])
    assert metrics.top_k_accuracy(scores, labels) == 0.5
    assert metrics.top_k_accuracy(scores, labels, 2) == 0.75
    assert metrics.top_k_accuracy(scores, labels, 3) == 1.0


def test_frechet_distance_of_gaussians_is_the_formula():
    """Two clouds whose means and covariances are known exactly; these commute, so the root is easy."""
    torch.manual_seed(0)
    white = torch.randn(4000, 3, dtype=torch.float64)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T  # mean 0, covariance 1, exactly
    first, second = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 2.0, 1.0]).double()
    shift = torch.tensor([1.0, 0.0, -2.0]).double()
    expected = shift.square().sum() + (first - second).square().sum()
    assert metrics.frechet_distance(white * first, white * second + shift) == pytest.approx(expected.item(), rel=1e-9)
    assert metrics.frechet_distance(white, white) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_clouds_that_do_not_commute():
    """Against the definition, with a matrix root computed from the eigenvalues."""
    torch.manual_seed(1)
    one, other = torch.randn(50, 4) @ torch.randn(4, 4), torch.randn(60, 4) @ torch.randn(4, 4) + 1
    a, b = one.T.double().cov(), other.T.double().cov()
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    means = (one.double().mean(0) - other.double().mean(0)).square().sum()
    expected = means + a.trace() + b.trace() - 2 * roots
    assert metrics.frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((1, 3), (5, 3)), ((5,), (5,))])
def test_frechet_distance_refuses_what_is_no_pair_of_clouds(shapes):
    with pytest.raises(ValueError, match="must be"):
        metrics.frechet_distance(*(torch.zeros(shape) for shape in shapes))


def test_psnr_is_that_of_known_noise():
    images = torch.zeros(2, 3, 8, 8)
    assert metrics.psnr(images, images + 0.2) == pytest.approx(20)  # a tenth of the span: 20 dB
    assert metrics.psnr(images, images + 0.02) == pytest.approx(40)


def test_nearest_drawing_finds_what_was_planted(data):
    torch.manual_seed(0)
    for concept, style in (("pizza", "3d"), ("rocket", "sticker"), ("cat face", "cartoon")):
        picture = data.draw(Scene(concept, style, "blue"))
        assert evaluation.nearest_drawing(picture, "blue", data)[:2] == (concept, style)
        found = evaluation.nearest_drawing(picture + 0.3 * torch.randn_like(picture), "blue", data)
        assert found[:2] == (concept, style)
        assert found[2] == pytest.approx(0.3, abs=0.02)


def test_fixed_scenes_are_fixed_plain_and_of_their_split(data):
    seen, held_out = (evaluation.fixed_scenes(data, split, 40) for split in ("train", "heldout"))
    assert seen == evaluation.fixed_scenes(data, "train", 40)
    assert {(scene.size, scene.place, scene.paraphrase) for scene in seen + held_out} == {("usual", "centre", 0)}

    def allowed(scene, split):
        return data.allowed[split][data.position[scene.concept], data.styles.index(scene.style),
                                   list(data.backgrounds).index(scene.background)]

    assert all(allowed(scene, "train") for scene in seen)
    assert all(allowed(scene, "heldout") for scene in held_out)


def test_classifier_saves_and_opens(tmp_path):
    torch.manual_seed(0)
    classifier, pixels = Classifier(**CLASSIFIER), torch.rand(3, 3, 64, 64)
    classifier.save_pretrained(tmp_path)
    with torch.no_grad():
        for ours, again in zip(classifier(pixels), Classifier.from_pretrained(tmp_path)(pixels)):
            assert torch.equal(ours, again)
    assert [scores.shape[1] for scores in classifier(pixels)] == [2, 1, 2]
    with pytest.raises(ValueError, match="must be"):
        classifier(torch.rand(3, 3, 32, 32))


@pytest.mark.slow
def test_evaluate_writes_a_table_and_a_picture(data, tmp_path, monkeypatch, capsys):
    """A shortened run with the mini model's parts but an untrained U-Net: all numbers are there, though bad."""
    torch.manual_seed(0)
    sd = StableDiffusion.from_pretrained("mini")
    for parameter in sd.unet.parameters():
        parameter.zero_()
    judge = Classifier(concepts=[c.name for c in data.concepts], styles=data.styles, backgrounds=list(data.backgrounds))
    judge.save_pretrained(tmp_path / "judge")
    monkeypatch.setattr(evaluation, "GUIDANCE_SCALES", (1.0,))
    monkeypatch.setattr(evaluation, "STEPS", (2,))
    monkeypatch.setattr(evaluation, "SAMPLERS", ("euler",))
    monkeypatch.setattr(StableDiffusion, "from_pretrained", lambda *args, **kwargs: sd)
    before = sd.scheduler
    assert cli.main(["evaluate", "--classifier", str(tmp_path / "judge"), "--count", "3", "--out", str(tmp_path)]) == 0
    assert sd.scheduler is before
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["setting"] for row in rows] == ["real", "VAE", "guidance", "steps", "scheduler"]
    assert float(rows[0]["background, seen"]) == 1.0  # real pictures have the right background
    assert float(rows[0]["nearest, held out"]) == 1.0
    assert float(rows[2]["nearest, held out"]) < 1.0  # an untrained U-Net draws nothing of the kind
    assert "| scheduler euler |" in capsys.readouterr().out
    with Image.open(tmp_path / "metrics.png") as picture:
        assert picture.width > 1000


class Painter:
    """Takes the place of the pipeline: "draws" a dark picture of trained scenes and a bright one of held-out ones."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, held_out: list[str]):
        self.held_out, self.asked, self.scheduler, self.vae = held_out, [], "own", self

    def set_scheduler(self, name):
        self.scheduler = name

    def text_to_image(self, prompts, num_inference_steps, guidance_scale, seed, output, progress):
        self.asked.append((len(prompts), num_inference_steps, guidance_scale, seed, self.scheduler))
        return torch.stack([torch.full((3, 64, 64), float(prompt in self.held_out)) for prompt in prompts])

    def encode(self, images):
        return type("Posterior", (), {"mode": lambda self: images})()

    def decode(self, latents):
        return latents


def test_evaluate_says_of_which_scenes_a_number_is(data, monkeypatch):
    """A judge to whom bright pictures are right and dark ones wrong."""
    classifier = Classifier(concepts=[c.name for c in data.concepts], styles=data.styles,
                            backgrounds=list(data.backgrounds))
    judge, count = evaluation.Judge(classifier, data), 34
    splits = {split: evaluation.fixed_scenes(data, split, count) for split in ("train", "heldout")}
    scored = []

    def scores(self, pictures, scenes):
        scored.append(scenes)
        return {key: float(pictures.mean() == 1) for key in ("concept", "concept top 5", "style", "background",
                                                             "nearest")}

    monkeypatch.setattr(evaluation.Judge, "scores", scores)
    monkeypatch.setattr(evaluation.Judge, "features", lambda self, pictures: pictures.flatten(1)[:, :2])
    monkeypatch.setattr(evaluation, "GUIDANCE_SCALES", (1.0, 4.0))
    monkeypatch.setattr(evaluation, "STEPS", (2,))
    monkeypatch.setattr(evaluation, "SAMPLERS", ("euler",))
    painter = Painter([data.caption(scene) for scene in splits["heldout"]])
    rows = evaluation.evaluate(painter, judge, count, 3.0, 7, progress=False)
    assert [(row["setting"], row["value"]) for row in rows[2:]] == [
        ("guidance", 1.0), ("guidance", 4.0), ("steps", 2), ("scheduler", "euler")]
    for row in rows[2:]:
        assert (row["concept, seen"], row["concept, held out"]) == (0, 1)
    assert scored == [splits["train"], splits["heldout"]] * 6
    assert painter.asked == [(n, steps, scale, seed, name) for steps, scale, name in (
        (7, 1.0, "own"), (7, 4.0, "own"), (2, 3.0, "own"), (7, 3.0, "euler"))
        for _ in range(2) for n, seed in ((32, 0), (2, 32))]
    assert painter.scheduler == "own"
    assert "| guidance 4.0 | 0 / 100 | 0 / 100 |" in evaluation.table(rows)


def test_retrieval_counts_captions_that_find_their_own_picture(data):
    asked, batch = [], data.batch

    class Towers:
        logit_scale = torch.zeros(1)
        embed_text = staticmethod(lambda numbers: torch.eye(8))
        embed_images = staticmethod(lambda images: torch.cat([torch.eye(8)[:6], torch.zeros(2, 8)]))

    class Data:
        @staticmethod
        def batch(indices, seed, split, resolution):
            asked.append((indices, split))
            return batch(indices, seed, split, resolution)

    assert evaluation.retrieval(Towers, lambda captions: torch.zeros(8), Data, "heldout", count=8) == 0.75
    assert asked == [(range(8), "heldout")]


def test_scores_are_shares_of_right_answers(data):
    """The judge is sure of the right concept, of the second style, and reads grounds off the pictures."""
    class Sure(torch.nn.Module):
        config = Classifier(concepts=[c.name for c in data.concepts], styles=data.styles,
                            backgrounds=list(data.backgrounds)).config

        def forward(self, pictures):
            concepts = torch.zeros(len(pictures), len(data.concepts))
            for row, scene in zip(concepts, scenes):
                row[data.position[scene.concept]] = 1
            concepts[0] = torch.arange(len(data.concepts))
            return concepts, torch.eye(4)[[1] * len(pictures)], None

    scenes = [Scene("pizza", style, "blue") for style in data.styles]
    pictures = torch.stack([data.draw(scene) for scene in scenes])
    scenes[3] = replace(scenes[3], background="red")
    found = evaluation.Judge(Sure(), data).scores(pictures, scenes)
    assert {key: found[key] for key in ("concept", "style", "background")} == {
        "concept": 0.75, "style": 0.25, "background": 0.75}
    assert found["nearest"] == 0.75
    assert found["distance"] > 0


def test_a_judge_must_know_what_it_judges(data):
    judge = Classifier(concepts=["red apple"], styles=data.styles, backgrounds=list(data.backgrounds))
    with pytest.raises(ValueError, match=r"the classifier was never taught .*; it must know all of the data"):
        evaluation.Judge(judge, data)


def test_evaluate_says_before_its_work_that_it_cannot_save(tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert cli.main(["evaluate", "--model", "no/such/model", "--out", str(tmp_path / "taken")]) == 2
    assert "taken is a file; name another folder" in capsys.readouterr().err


def test_evaluate_is_for_pictures_that_the_judge_knows(capsys, monkeypatch):
    sd = StableDiffusion.from_pretrained("mini")
    sd.unet.config = replace(sd.unet.config, sample_size=128)
    monkeypatch.setattr(StableDiffusion, "from_pretrained", lambda *args, **kwargs: sd)
    assert cli.main(["evaluate", "--model", "large"]) == 2
    assert "--model large draws 512×512 pixels; the judge knows pictures of 64×64 only" in capsys.readouterr().err


def test_evaluate_needs_two_of_each(capsys):
    assert cli.main(["evaluate", "--count", "1"]) == 2
    assert "--count is 1" in capsys.readouterr().err
