"""The evaluation, on a model that draws what is asked and on models that err in a known share of pictures."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from PIL import Image

from minisd.emoji import figures, likeness, prompts, report
from minisd.emoji.contrary import contrary
from minisd.emoji.figures import Bench, Figure
from tests.oracle import KnownData, Knows, Oracle

COUNT = 10  # prompts per figure; tests of errors make three of them wrong


@pytest.fixture(scope="module")
def data():
    return KnownData()


def bench_with(data, **oracle):
    return Bench(Oracle(data, **oracle), Knows(data), data, COUNT)


def other_thing(scene, rng):
    return replace(scene, concept="rocket" if scene.concept != "rocket" else "pizza")


def wrong(kind):
    return lambda scene, rng: contrary(scene, rng, kind) or scene


def values(found):
    return {figure.name.split(": ")[-1]: figure.value for figure in found}


# Prompts

@pytest.mark.parametrize(("ask", "kind"), [("one_thing", "colour"), ("small_thing", "colour"), ("worn", "worn"),
                                           ("pair", "pair"), ("number", "colour")])
def test_half_of_the_prompts_are_held_out(data, ask, kind):
    scenes = getattr(prompts, ask)(data, np.random.default_rng(0), 11)
    assert [data.held_out(scene) for scene in scenes] == [()] * 6 + [(kind,)] * 5
    for scene in scenes:
        said = data.caption(scene)
        for word in (*scene.things, *scene.colours):
            assert scene.count > 1 or word in said
        assert {"one_thing": scene.size == "usual", "small_thing": scene.size == "small" and scene.place != "centre",
                "worn": scene.worn != "", "pair": scene.other != "", "number": scene.count > 1}[ask]


def test_a_short_caption_means_what_it_means_in_training(data, monkeypatch):
    """Against scenes of the training sampler, made to draw cat faces only."""
    scenes = prompts.of_one(data, np.random.default_rng(0), 2000, "cat face")
    assert {data.caption(scene) for scene in scenes} == {"a cat face"}
    rng = np.random.default_rng(1)
    monkeypatch.setattr(data, "weights", np.cumsum([concept.name == "cat face" for concept in data.concepts]))
    sampled = [scene for scene in (data.scene(rng) for _ in range(4000))
               if scene.concept == "cat face" and prompts.is_single(scene)]
    for part, words in (("style", data.styles), ("pattern", ("plain", "striped", "dotted", "checked", "gradient")),
                        ("size", ("small", "usual", "large")), ("background", data.backgrounds)):
        counts = [[sum(getattr(scene, part) == word for scene in some) for word in words]
                  for some in (sampled, scenes)]
        assert likeness.chi_square(*counts)[1] > 0.001


# What is right, and what is wrong

@pytest.mark.parametrize("ask", [figures.one_thing, figures.small_thing, figures.worn, figures.two_things,
                                 figures.no_words])
def test_an_oracle_reaches_the_ceiling(data, ask):
    for figure in ask(bench_with(data)):
        assert figure.value == figure.ceiling == 1
        assert figure.reached in (True, None)


@pytest.mark.parametrize(("err", "part"), [(other_thing, "thing"), (wrong("style"), "style"),
                                           (wrong("background"), "ground")])
def test_three_errors_in_ten_are_seven_right_in_that_row_alone(data, err, part):
    found = figures.one_thing(bench_with(data, err=err, share=0.3))
    assert values(found) == {"thing": 1, "style": 1, "ground": 1} | {part: pytest.approx(0.7)}
    for figure in found:
        assert figure.reached is (figure.name != f"one thing: {part}")
        assert (figure.seen + figure.held_out) / 2 == pytest.approx(figure.value)


def test_a_pattern_of_the_right_colours_is_still_another_ground(data):
    def plain(scene, rng):
        return replace(scene, pattern="plain", second="")

    asked = prompts.one_thing(data, bench_with(data).rng(), COUNT)
    patterned = np.mean([scene.pattern != "plain" for scene in asked])
    assert 0 < patterned < 1
    assert values(figures.one_thing(bench_with(data, err=plain)))["ground"] == pytest.approx(1 - patterned)


def test_wrong_places_and_sizes_of_small_things_are_counted(data):
    place = values(figures.small_thing(bench_with(data, err=wrong("place"), share=0.3)))
    assert place == {"thing": 1, "place": pytest.approx(0.7), "size": 1}

    def large(scene, rng):
        return replace(scene, size="large", place="centre")

    assert values(figures.small_thing(bench_with(data, err=large)))["size"] == 0


def test_wrong_hats_and_wrong_heads_are_told_apart(data):
    hats = values(figures.worn(bench_with(data, err=wrong("worn"), share=0.3)))
    assert np.mean([hats["worn, seen pairs"], hats["worn, held-out pairs"]]) == pytest.approx(0.7)
    assert hats["worn and head"] == pytest.approx(0.7)

    def other_head(scene, rng):
        return replace(scene, concept="panda" if scene.concept != "panda" else "owl")

    heads = values(figures.worn(bench_with(data, err=other_head, share=0.3)))
    assert heads["worn, seen pairs"] == heads["worn, held-out pairs"] == 1
    assert heads["worn and head"] == pytest.approx(0.7)


def test_two_things_must_both_be_there_and_stand_as_said(data):
    bench = bench_with(data, err=wrong("relation"))
    said = np.mean([scene.relation in ("above", "below") for scene in prompts.pair(data, bench.rng(), COUNT)])
    assert 0 < said < 1
    assert values(figures.two_things(bench)) == {"both": 1, "both, as said": pytest.approx(1 - said)}

    def alone(scene, rng):
        return replace(scene, other="", relation="and")

    assert values(figures.two_things(bench_with(data, err=alone, share=0.3)))["both, as said"] == pytest.approx(0.7)


def test_wrong_numbers_are_counted(data):
    """Things that touch are read as one: two pictures in a hundred, here at most one."""
    (right,) = figures.number(bench_with(data))
    assert min(right.value, right.ceiling) >= 0.9
    (found,) = figures.number(bench_with(data, err=wrong("count"), share=0.3))
    assert found.value in (pytest.approx(0.7), pytest.approx(0.6))


def test_a_judge_that_is_not_sure_counts_nothing(data):
    class Doubts(Knows):
        def look(self, pictures):
            answers = super().look(pictures)
            return answers._replace(concepts=answers.concepts * 0.8)  # 0.72

    bench = replace(bench_with(data), judge=Doubts(data), count=4)
    assert [(figure.value, figure.reached) for figure in figures.no_words(bench)] == [(0, False)]


def test_a_bench_needs_two_prompts(data):
    with pytest.raises(ValueError, match="count=1; it must be at least 2"):
        replace(bench_with(data), count=1)


def test_the_judge_must_know_all_words(data):
    judge = Knows(data)
    judge.config = replace(judge.config, concepts=judge.config.concepts[2:])
    with pytest.raises(ValueError, match=f"never taught {judge.data.concepts[0].name}, {judge.data.concepts[1].name};"):
        replace(bench_with(data), judge=judge)


# Distributions

@pytest.mark.parametrize(("found", "shares"), [((12, 8, 10, 10), (1, 1, 1, 1)), ((60, 20, 20), (500, 300, 200))])
def test_chi_square_is_scipys(found, shares):
    statistic, p, _ = likeness.chi_square(found, shares)
    wanted = scipy.stats.chisquare(found, np.array(shares) / sum(shares) * sum(found))
    assert (statistic, p) == (pytest.approx(wanted.statistic), pytest.approx(wanted.pvalue))


def test_chi_square_throws_rare_classes_together():
    statistic, p, ratio = likeness.chi_square((50, 44, 2, 4), (500, 400, 60, 40))  # 6 and 4 are expected of the last
    assert statistic == pytest.approx(0 + 16 / 40 + 16 / 6 + 0)
    assert ratio == 3                         # 2 where 6 were expected
    assert p == pytest.approx(scipy.stats.chi2.sf(statistic, 3))
    assert likeness.chi_square((100, 0), (50, 50))[2] == float("inf")
    assert likeness.chi_square((90, 10), (100, 0))[1] < 1e-6    # what the data never has


def test_a_model_with_one_style_has_no_variety(data):
    for scene in prompts.of_one(data, np.random.default_rng(9), 400, "cat face"):
        data.caption(scene)                    # now the oracle knows what these words may mean
    various = likeness.variety(replace(bench_with(data), count=40))
    assert all(figure.reached for figure in various)

    def sticker(scene, rng):
        return replace(scene, style="sticker")

    styles, *others = likeness.variety(replace(bench_with(data, err=sticker), count=40))
    assert (styles.value < 1e-6, styles.reached) == (True, False)
    assert all(figure.reached for figure in others)


def test_the_vae_is_measured_by_itself(data):
    (figure,) = likeness.vae(replace(bench_with(data), count=4))
    assert 40 <= figure.value <= 43           # off by 0.02 of 2, and less where that would leave [-1, 1]
    assert figure.reached


@pytest.mark.parametrize(("stain", "reached"), [(0.0, True), (0.1, False)])
def test_stained_grounds_are_found(data, stain, reached):
    spread, times = likeness.stain(replace(bench_with(data, stain=stain), count=4))
    assert spread.ceiling < 0.5
    assert times.reached is reached
    assert times.value > 1.5 or not stain


def test_frechet_grows_with_what_is_wrong(data):
    distances = {}
    for share in (0.0, 0.3, 0.9):
        bench = bench_with(data, err=lambda scene, rng: replace(scene, background="green"), share=share)
        distance, vae = likeness.frechet(bench)
        distances[share] = distance.value
        assert distance.ceiling > 0
        assert 0 < vae.value < 1
    assert distances[0.0] < 2 * distance.ceiling
    assert distances[0.0] < distances[0.3] < distances[0.9]


def test_both_editions_are_seen_at_64_pixels(data):
    class Sees:
        def features(self, pictures):
            return pictures

    pictures = torch.rand(2, 3, 128, 128)
    small = F.avg_pool2d(pictures, 2)
    assert likeness.seen_at_64(Sees(), pictures).shape == (2, 3, 128, 128)
    assert torch.equal(likeness.seen_at_64(Sees(), pictures), likeness.seen_at_64(Sees(), small))


# Inpainting

def test_seam_and_error_of_known_pictures():
    truth = torch.zeros(1, 3, 128, 128)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:] = 1
    assert likeness.seam(truth, truth, mask) == 0
    assert likeness.seam(truth + 0.1 * mask, truth, mask) == pytest.approx(0.1)
    assert likeness.error(truth + 0.1 * mask, truth, mask) == pytest.approx(0.1)
    assert likeness.error(truth + 0.1 * mask, truth, 1 - mask) == 0


def test_inpainting_is_compared_with_blending(data):
    class Fills(Oracle):
        """A pipeline that is off by these amounts in the hole and in the known part."""

        def __init__(self, data, hole, known):
            super().__init__(data)
            self.hole, self.known = hole, known

        def inpaint(self, prompts, images, masks, seed, output, progress):
            assert all(" on " not in prompt for prompt in prompts)  # short captions
            off = self.hole * masks + self.known * (1 - masks)
            return (images - off * images.sign()) / 2 + 0.5

    bench = Bench(Fills(data, 0.4, 0), Knows(data), data, 4)
    known, hole, seam = likeness.inpainting(bench, Fills(data, 0.1, 0.2))
    assert (known.value, hole.value) == (pytest.approx(0.2, abs=1e-3), pytest.approx(0.25, abs=1e-3))
    assert (known.reached, hole.reached) == (False, True)
    assert known.ceiling == pytest.approx(0.02, abs=0.005)
    assert abs(seam.value) < 0.1


# The report

def test_the_report_is_written(data, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(report.subprocess, "run", lambda command, **how: commands.append((command, how)))
    monkeypatch.setattr(report, "GUIDANCE_SCALES", (2.0, 5.0))
    monkeypatch.setattr(report, "SCHEDULERS", ("euler", "heun"))
    bench = replace(bench_with(data), count=2)
    found = report.report(bench, tmp_path / "new", model="mini", progress=False)
    assert bench.sd.scheduler == "ddim"
    assert commands[0][0][1:7] == ["-m", "minisd", "generate", "a cat face", "--model", "mini"]
    assert commands[0][1]["check"]
    assert found[-1].name == "time for a picture, cold"

    with (tmp_path / "new/figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [figure.name for figure in found]
    words = (tmp_path / "new/figures.md").read_text()
    assert "| one thing: thing | 100.0 % | 100.0 / 100.0 | 100.0 % | ≥ 98 % | yes |" in words
    assert "2 prompts per figure" in words

    with (tmp_path / "new/settings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["setting"] for row in rows] == ["guidance"] * 2 + ["steps"] * 4 + ["scheduler"] * 2 + ["real"]
    asked = [call for call in bench.sd.calls if call != {"scheduler": "ddim"}]  # the others are the model's defaults
    assert asked == [{"guidance_scale": 2.0, "scheduler": "ddim"}, {"guidance_scale": 5.0, "scheduler": "ddim"},
                     *({"num_inference_steps": steps, "scheduler": "ddim"} for steps in (5, 10, 20, 50)),
                     {"scheduler": "euler"}, {"scheduler": "heun"}]
    with Image.open(tmp_path / "new/settings.png") as picture:
        assert picture.width == 1500


def test_the_blind_sheet_and_its_key_go_together(data, tmp_path):
    bench = bench_with(data)
    report.blind_sheet(bench, tmp_path, 9)
    sheet = np.asarray(Image.open(tmp_path / "blind.png")).astype(float)
    with (tmp_path / "blind-key.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == [str(i + 1) for i in range(9)]
    step, cell = report.CELL + 8, report.CELL
    drawn = F.adaptive_avg_pool2d(bench.draw_words([row["caption"] for row in rows]), 4)
    for i in range(9):
        top, left = 4 + report.LABEL + i // 8 * (step + report.LABEL), 4 + i % 8 * step
        shown = torch.from_numpy(sheet[top: top + cell, left: left + cell]).permute(2, 0, 1).float() / 127.5 - 1
        away = (drawn - F.adaptive_avg_pool2d(shown, 4)).abs().amax(dim=(1, 2, 3))   # (9,)
        assert int(away.argmin()) == i
        assert away[i] < 0.05


def test_the_table_says_what_was_not_reached():
    words = report.table([Figure("a", 0.5, "%", 0.9, 0.6, 0.4, "≥ 75 %", False), Figure("b", 30.04, "dB")])
    assert words.splitlines()[2:] == ["| a | 50.0 % | 60.0 / 40.0 | 90.0 % | ≥ 75 % | no |",
                                      "| b | 30.0 dB |  |  |  |  |"]
