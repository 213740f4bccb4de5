"""How often is what a model draws right? Each figure comes with its ceiling: the same judge's verdict on real pictures.

Each function measures one row of the table, or a few that belong together. It takes a `Bench`, which has model, judge
and data, and draws with the model's default settings. More rows are in likeness.py.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from minisd.emoji import prompts, reading
from minisd.emoji.judge import Answers, Judge
from minisd.emoji.scene import Scene
from minisd.emoji.world import EmojiData

if TYPE_CHECKING:
    from minisd.pipeline import StableDiffusion

AT_ONCE = 32           # pictures drawn together
SURE = 0.8             # how sure the judge must be to see a thing


@dataclass(frozen=True)
class Figure:
    """One number of the table."""

    name: str
    value: float
    unit: str = "%"
    ceiling: float | None = None      # the value for real pictures
    seen: float | None = None         # the value for the half whose combinations were trained on
    held_out: float | None = None     # … and for the half with held-out combinations
    aim: str = ""
    reached: bool | None = None       # None where there is no aim


@dataclass(frozen=True)
class Bench:
    """What is measured, and what it is measured with.

    Args:
        sd: the pipeline; it must have text_to_image and vae.
        judge: or anything else with its `look` and `features`.
        count: prompts per figure.
    """

    sd: "StableDiffusion"
    judge: Judge
    data: EmojiData
    count: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"count={self.count}; it must be at least 2: half seen and half held-out combinations")
        words, known = [*self.data.position, *self.data.styles], self.judge.config
        if unknown := [word for word in words if word not in (*known.concepts, *known.styles)]:
            raise ValueError(f"the judge was never taught {', '.join(unknown[:5])}; it must know all of the data")

    def rng(self) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.count))

    def draw(self, scenes: Sequence[Scene], **settings: Any) -> Tensor:
        """What the model draws for the scenes' captions: (B, 3, 128, 128) in [-1, 1]; picture k with seed + k."""
        return self.draw_words([self.data.caption(scene) for scene in scenes], **settings)

    def draw_words(self, captions: list[str], **settings: Any) -> Tensor:
        parts = [torch.as_tensor(self.sd.text_to_image(captions[i: i + AT_ONCE], seed=self.seed + i, output="pt",
                                                       progress=False, **settings)).float().cpu()
                 for i in range(0, len(captions), AT_ONCE)]
        return torch.cat(parts) * 2 - 1

    def real(self, scenes: Iterable[Scene]) -> Tensor:
        return torch.stack([self.data.draw(scene) for scene in scenes])

    @torch.no_grad()
    def through_vae(self, pictures: Tensor) -> Tensor:
        """Pictures encoded and decoded: the best that the model could draw."""
        vae = self.sd.vae
        return torch.cat([vae.decode(vae.encode(part.to(vae.device, vae.dtype)).mode()).clamp(-1, 1).float().cpu()
                          for part in pictures.split(AT_ONCE)])


# --- right or wrong -------------------------------------------------------------------------------------------

Verdicts = dict[str, list[bool]]     # figure → for each scene, whether it is right


def share(name: str, drawn: list[bool], real: list[bool], aim: float | None = None) -> Figure:
    """The share of pictures that are right. The first half has combinations that were trained on (see prompts.py)."""
    half = len(drawn) - len(drawn) // 2
    value = float(np.mean(drawn))
    return Figure(name, value, "%", float(np.mean(real)), float(np.mean(drawn[:half])), float(np.mean(drawn[half:])),
                  f"≥ {100 * aim:.0f} %" if aim else "", value >= aim if aim else None)


def best(answers: Answers, row: int, count: int, judge: Judge) -> set[str]:
    """The `count` concepts that the judge is surest to see in one picture."""
    return {judge.config.concepts[i] for i in answers.concepts[row].topk(count).indices}


def right_thing(judge: Judge, pictures: Tensor, scenes: Sequence[Scene]) -> Verdicts:
    """Thing, style and ground of pictures with one thing; the ground is its pattern and its colours."""
    answers = judge.look(pictures)
    return {"thing": [best(answers, i, 1, judge) == {scene.concept} for i, scene in enumerate(scenes)],
            "style": [style == scene.style for style, scene in zip(answers.style, scenes)],
            "ground": [reading.same_ground(reading.read_ground(picture, pattern), scene)
                       for picture, pattern, scene in zip(pictures, answers.pattern, scenes)]}


def one_thing(bench: Bench) -> list[Figure]:
    scenes = prompts.one_thing(bench.data, bench.rng(), bench.count)
    drawn, real = (right_thing(bench.judge, pictures, scenes) for pictures in (bench.draw(scenes), bench.real(scenes)))
    return [share(f"one thing: {part}", drawn[part], real[part], aim)
            for part, aim in (("thing", 0.98), ("style", 0.95), ("ground", 0.98))]


def small_thing(bench: Bench) -> list[Figure]:
    """The judge says which thing it is; place and size are read off the pixels."""
    scenes = prompts.small_thing(bench.data, bench.rng(), bench.count)

    def verdicts(pictures: Tensor) -> Verdicts:
        things = [reading.read_thing(picture) for picture in pictures]
        return {"small thing: thing": right_thing(bench.judge, pictures, scenes)["thing"],
                "small thing: place": [thing is not None and thing.place == scene.place
                                       for thing, scene in zip(things, scenes)],
                "small thing: size": [thing is not None and thing.size == scene.size
                                      for thing, scene in zip(things, scenes)]}

    drawn, real = verdicts(bench.draw(scenes)), verdicts(bench.real(scenes))
    aims = {"small thing: thing": 0.9, "small thing: place": 0.9}
    return [share(name, drawn[name], real[name], aims.get(name)) for name in drawn]


def worn(bench: Bench) -> list[Figure]:
    """What a head wears; for "worn and head", the head must be right as well."""
    scenes = prompts.worn(bench.data, bench.rng(), bench.count)

    def verdicts(pictures: Tensor) -> Verdicts:
        answers = bench.judge.look(pictures)
        on = [found == scene.worn for found, scene in zip(answers.worn, scenes)]
        head = [best(answers, i, 1, bench.judge) == {scene.concept} for i, scene in enumerate(scenes)]
        return {"worn": on, "worn and head": [a and b for a, b in zip(on, head)]}

    drawn, real = verdicts(bench.draw(scenes)), verdicts(bench.real(scenes))
    half = bench.count - bench.count // 2
    figures = []
    for name, of, part, aim in (("worn, seen pairs", "worn", slice(half), 0.92),
                                ("worn, held-out pairs", "worn", slice(half, None), 0.8)):
        value = float(np.mean(drawn[of][part]))
        figures.append(Figure(name, value, "%", float(np.mean(real[of][part])), aim=f"≥ {100 * aim:.0f} %",
                              reached=value >= aim))
    return [*figures, share("worn and head", drawn["worn and head"], real["worn and head"])]


def two_things(bench: Bench) -> list[Figure]:
    """Both things are there; "as said": and the right one is above, if the caption says which. Left and right are not
    judged."""
    scenes = prompts.pair(bench.data, bench.rng(), bench.count)
    words = {name: i for i, name in enumerate(bench.judge.config.concepts)}

    def verdicts(pictures: Tensor) -> Verdicts:
        answers = bench.judge.look(pictures)
        found: Verdicts = {"two things: both": [], "two things: both, as said": []}
        for i, scene in enumerate(scenes):
            there = best(answers, i, 2, bench.judge) == set(scene.things)
            first, second = (float(answers.heights[i, words[name]]) for name in scene.things)
            as_said = {"above": first < second, "below": first > second}.get(scene.relation, True)
            found["two things: both"].append(there)
            found["two things: both, as said"].append(there and as_said)
        return found

    drawn, real = verdicts(bench.draw(scenes)), verdicts(bench.real(scenes))
    return [share(name, drawn[name], real[name], aim) for name, aim in zip(drawn, (None, 0.75))]


def number(bench: Bench) -> list[Figure]:
    scenes = prompts.number(bench.data, bench.rng(), bench.count)
    drawn, real = ([reading.read_number(picture) == scene.count for picture, scene in zip(pictures, scenes)]
                   for pictures in (bench.draw(scenes), bench.real(scenes)))
    return [share("two, three or four: number", drawn, real)]


def no_words(bench: Bench) -> list[Figure]:
    """How often the judge is sure to see a thing, whichever it is, in a picture drawn without words."""
    real = bench.real(prompts.anything(bench.data, bench.rng(), bench.count))
    drawn, ceiling = (float((bench.judge.look(pictures).concepts.amax(dim=1) >= SURE).float().mean())
                      for pictures in (bench.draw_words([""] * bench.count), real))
    return [Figure("no words: a thing, the judge is sure", drawn, "%", ceiling, aim="≥ 75 %", reached=drawn >= 0.75)]


def warm_time(bench: Bench) -> list[Figure]:
    """Seconds for one picture, including decoding: the best of three, after one to warm up."""
    def seconds() -> float:
        start = time.perf_counter()
        bench.draw_words(["a cat face"])
        return time.perf_counter() - start

    seconds()
    least = min(seconds() for _ in range(3))
    return [Figure("time for a picture, warm", least, "s", aim="≤ 1.2 s", reached=least <= 1.2)]
