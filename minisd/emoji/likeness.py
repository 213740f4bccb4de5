"""Are a model's pictures like the data: as varied, as clean, as close? And does what it paints into a hole fit?

More rows of the table, like those in figures.py.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.emoji import prompts, reading
from minisd.emoji.figures import AT_ONCE, Bench, Figure
from minisd.emoji.judge import Judge
from minisd.emoji.scene import BACKGROUNDS, PATTERNS, STYLES
from minisd.metrics import frechet_distance, psnr

if TYPE_CHECKING:
    from minisd.pipeline import StableDiffusion

REACH = 12             # pixels across an edge, between which a seam is measured: a latent is eight pixels wide
LEAST_EXPECTED = 5     # pictures in a class of a χ² test; smaller classes are pooled
MANY = 4000            # scenes from which the data's shares are estimated


def variety(bench: Bench, concept: str = "cat face") -> list[Figure]:
    """Whether the pictures for one short caption vary as the data do, in style, pattern and colour of the ground.

    The value is the p-value of a χ² test against the data's shares. The aim is reached if the test does not reject them
    at 1 %, or if each share is within a factor of 1.6 of the data's.
    """
    everything = prompts.of_one(bench.data, bench.rng(), MANY, concept)
    expected = classes([scene.style for scene in everything], [scene.pattern for scene in everything],
                       [scene.background for scene in everything])
    words = bench.data.caption(everything[0])
    tests = []
    for pictures in (bench.draw_words([words] * bench.count), bench.real(everything[:bench.count])):
        answers = bench.judge.look(pictures)
        colours = [reading.read_ground(picture, pattern).colours[0]
                   for picture, pattern in zip(pictures, answers.pattern)]
        found = classes(answers.style, answers.pattern, colours)
        tests.append({what: chi_square(found[what], expected[what]) for what in expected})
    figures = []
    for what in expected:
        (statistic, p, ratio), (_, real_p, _) = (test[what] for test in tests)
        figures.append(Figure(f'"{words}": {what} (χ² {statistic:.1f}, shares within ×{ratio:.2f})', p, "p",
                                    real_p, aim="p ≥ .01, or ×1.6", reached=p >= 0.01 or ratio <= 1.6))
    return figures


def classes(styles: list[str], patterns: list[str], colours: list[str]) -> dict[str, list[int]]:
    """How many pictures have each style, each pattern and, if they are plain, each colour."""
    plain = [colour for colour, pattern in zip(colours, patterns) if pattern == "plain"]
    return {what: [Counter(found)[word] for word in words] for what, found, words in (
        ("styles", styles, STYLES), ("patterns", patterns, PATTERNS), ("colours", plain, BACKGROUNDS))}


def chi_square(found: Sequence[int], expected: Sequence[int]) -> tuple[float, float, float]:
    """Pearson's χ² test of counts against shares. Classes with an expected count below five are pooled.

        χ² = Σ (found - expected)² / expected,   p = Γ(f/2, χ²/2) / Γ(f/2) with f = classes - 1

    Args:
        expected: counts in another sample, which is so large that its shares are taken as exact.

    Returns:
        χ², p, and the largest ratio of a share to the expected one, or the inverse (infinite if there is none).
    """
    total = sum(found)
    pairs = [(count, total * share / sum(expected)) for count, share in zip(found, expected)]
    large = [pair for pair in pairs if pair[1] >= LEAST_EXPECTED]
    rest = [sum(column) for column in zip((0, 0.0), *(pair for pair in pairs if pair[1] < LEAST_EXPECTED))]
    if rest[1] > 0 or rest[0] > 0:   # count pictures of kinds that the data never has, too
        large.append((rest[0], max(rest[1], 0.5)))
    statistic = sum((count - wanted) ** 2 / wanted for count, wanted in large)
    freedom = torch.tensor(max(1, len(large) - 1) / 2, dtype=torch.float64)
    p = torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64))
    ratio = max((max(count / wanted, wanted / count) if count else float("inf")
                 for count, wanted in large if wanted >= LEAST_EXPECTED), default=1.0)
    return float(statistic), float(p), float(ratio)


def vae(bench: Bench) -> list[Figure]:
    rng = bench.rng()
    real = bench.real([bench.data.scene(rng, "heldout") for _ in range(bench.count)])
    value = psnr(real, bench.through_vae(real))
    return [Figure("VAE, held-out scenes", value, "dB", aim="≥ 31 dB", reached=value >= 31)]


def stain(bench: Bench) -> list[Figure]:
    """The spread of the pixels of plain grounds, compared with real pictures of the same scenes after the VAE."""
    scenes = prompts.clean_ground(bench.data, bench.rng(), bench.count)
    real = bench.real(scenes)
    drawn, again, never = (float(np.mean([reading.spread(picture) for picture in pictures]))
                           for pictures in (bench.draw(scenes), bench.through_vae(real), real))
    ratio = drawn / again
    return [Figure("stain: spread of a plain ground, of 255", drawn, "", never),
            Figure("stain: times the VAE's", ratio, "×", aim="≤ 1.5", reached=ratio <= 1.5)]


def seen_at_64(judge: Judge, pictures: Tensor) -> Tensor:
    """The judge's features of pictures (B, 3, R, R), R = 64 or 128, averaged down to 64 pixels, so that both editions
    can be compared."""
    small = F.avg_pool2d(pictures, pictures.shape[-1] // 64)
    return judge.features(F.interpolate(small, scale_factor=2.0, mode="bilinear"))


def frechet(bench: Bench) -> list[Figure]:
    """The distance of plain scenes from real pictures of them; for the ceiling, the same scenes in other poses.

    To compare the first edition, have it draw its own scenes, and take the features (`seen_at_64`) of these and of its
    own real pictures by the same judge.
    """
    rng = bench.rng()
    scenes = prompts.plain_thing(bench.data, rng, bench.count)
    real = bench.real(scenes)
    others = (bench.draw(scenes), bench.through_vae(real), bench.real(prompts.posed_anew(rng, scenes)))
    crowd = seen_at_64(bench.judge, real)
    drawn, again, ceiling = (frechet_distance(seen_at_64(bench.judge, pictures), crowd) for pictures in others)
    return [Figure("Fréchet distance, at 64 pixels", drawn, "", ceiling, aim="≤ a third of the first edition's"),
            Figure("Fréchet distance: share of the VAE", again / drawn if drawn else 0.0, "%")]


def inpainting(bench: Bench, inpaint: "StableDiffusion") -> list[Figure]:
    """Half of a picture is repainted from a caption that only names the thing; the rest must be read off the picture.

    `known` and `hole` are mean absolute differences from the true picture (pixels span 2). Blending is done by the
    bench's own model, which pastes the known part back after every step. The ceiling is the true picture after the VAE.
    """
    scenes = prompts.short(prompts.halves(bench.data, bench.rng(), bench.count, prompts.is_single, "colour"))
    pictures = bench.real(scenes)
    masks = torch.zeros(len(pictures), 1, *pictures.shape[-2:])
    masks[0::2, :, :, masks.shape[3] // 2:] = 1        # the right half, the lower half
    masks[1::2, :, masks.shape[2] // 2:, :] = 1

    def fill(sd: "StableDiffusion") -> Tensor:
        parts = [torch.as_tensor(sd.inpaint(
            [bench.data.caption(scene) for scene in scenes[i: i + AT_ONCE]], pictures[i: i + AT_ONCE],
            masks[i: i + AT_ONCE], seed=bench.seed + i, output="pt", progress=False)).float().cpu()
            for i in range(0, len(scenes), AT_ONCE)]
        return torch.cat(parts) * 2 - 1

    filled, blended, again = fill(inpaint), fill(bench.sd), bench.through_vae(pictures)
    known, known_vae = (error(images, pictures, 1 - masks) for images in (filled, again))
    hole, hole_blended = (error(images, pictures, masks) for images in (filled, blended))
    edge, edge_vae = (seam(masks * images + (1 - masks) * pictures, pictures, masks) for images in (filled, again))
    part = hole / hole_blended
    return [Figure("inpainting: known part off by", known, "", known_vae, aim="≤ .05", reached=known <= 0.05),
            Figure("inpainting: hole off by, times blending's", part, "×", aim="≤ .5", reached=part <= 0.5),
            Figure("inpainting: seam after pasting", edge, "", edge_vae, aim="≤ .03", reached=edge <= 0.03)]


def error(images: Tensor, truth: Tensor, where: Tensor) -> float:
    """Mean absolute difference where a mask (B, 1, H, W) is one."""
    return float(((images - truth).abs() * where).sum() / (3 * where.sum()))


def seam(images: Tensor, truth: Tensor, masks: Tensor, reach: int = REACH) -> float:
    """Mean difference of pixels on either side of the masks' edges, `reach` apart, minus that in the true pictures."""
    total, count = 0.0, 0.0
    for axis in (2, 3):
        length = masks.shape[axis] - reach
        across = (masks.narrow(axis, reach, length) - masks.narrow(axis, 0, length)).abs()
        jump, true = ((p.narrow(axis, reach, length) - p.narrow(axis, 0, length)).abs().mean(dim=1, keepdim=True)
                      for p in (images, truth))
        total, count = total + float(((jump - true) * across).sum()), count + float(across.sum())
    return total / count
