"""Checks for notebook 10, inpainting."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.exercises import Exercise


def random_mask(generator: torch.Generator, *shape: int) -> Tensor:
    return (torch.rand(shape, generator=generator) < 0.4).float()


def paste_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(*torch.randn(2, 2, 4, 8, 8, generator=generator), random_mask(generator, 2, 1, 8, 8)) for _ in range(2)]


def channel_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, 4, 8, 8, generator=generator), random_mask(generator, 2, 1, 8, 8),
             torch.randn(2, 4, 8, 8, generator=generator))]


def mask_cases() -> list[tuple]:
    line = torch.zeros(1, 1, 16, 16)
    line[..., 6] = 1
    generator = torch.Generator().manual_seed(2)
    return [(line, 4), ((torch.rand(2, 1, 24, 16, generator=generator) < 0.05).float(), 8),
            ((torch.rand(1, 1, 8, 8, generator=generator) < 0.5).float(), 2)]


def loss_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(3)
    return [(*torch.randn(2, 2, channels, 8, 8, generator=generator), random_mask(generator, 2, 1, 8, 8))
            for channels in (4, 3)]


def hole_loss(answer: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return ((answer - target).square() * mask).sum() / (answer.shape[1] * mask.sum())


def soft_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(4)
    painted, original = torch.rand(2, 2, 3, 16, 16, generator=generator) * 2 - 1
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, :, 4:11, 3:12] = masks[1, :, :, 8:] = 1  # the second extends to the picture's edge
    return [(painted, original, masks, radius) for radius in (1, 3)]


def soften(mask: Tensor, radius: int, **options) -> Tensor:
    return F.avg_pool2d(mask, 2 * radius + 1, stride=1, padding=radius, **options)


def paste_softly(painted: Tensor, original: Tensor, mask: Tensor, radius: int) -> Tensor:
    soft = soften(mask, radius, count_include_pad=False)
    return soft * painted + (1 - soft) * original


EXERCISES = {
    "10.1": Exercise(lambda painted, known, mask: mask * painted + (1 - mask) * known, paste_cases, {
        "The other way round: the mask is 1 where to *paint*.":
            lambda painted, known, mask: (1 - mask) * painted + mask * known,
        "The known part must be multiplied by 1 - mask, or it lies over the painted one as well.":
            lambda painted, known, mask: mask * painted + known,
        "The painted part must be multiplied by the mask, or it lies over the known one as well.":
            lambda painted, known, mask: painted + (1 - mask) * known,
        "That is an even mixture of both; each place should have the one or the other.":
            lambda painted, known, mask: (painted + known) / 2,
    }),
    "10.2": Exercise(lambda noisy, mask, masked: torch.cat([noisy, mask, masked], dim=1), channel_cases, {
        "Masked picture and mask have changed places: the mask comes first of the two.":
            lambda noisy, mask, masked: torch.cat([noisy, masked, mask], dim=1),
        "The noisy latents come first: those are the four channels that the old weights know.":
            lambda noisy, mask, masked: torch.cat([mask, masked, noisy], dim=1),
        "The mask should be 1 where to paint, as it is given; you turned it round.":
            lambda noisy, mask, masked: torch.cat([noisy, 1 - mask, masked], dim=1),
        "The masked picture's latents go in as they are; the encoder has already seen the grey hole.":
            lambda noisy, mask, masked: torch.cat([noisy, mask, masked * (1 - mask)], dim=1),
    }),
    "10.3": Exercise(lambda mask, factor: F.max_pool2d(mask, factor), mask_cases, {
        "That takes one pixel of each square, and lines between those are lost.":
            lambda mask, factor: mask[..., ::factor, ::factor],
        "That is the share of white pixels; where it is above 0, the place should be 1.":
            lambda mask, factor: F.avg_pool2d(mask, factor),
        "That asks for *all* pixels of a square to be white; one is enough.":
            lambda mask, factor: -F.max_pool2d(-mask, factor),
        "That asks for half of a square to be white; one pixel is enough.":
            lambda mask, factor: (F.avg_pool2d(mask, factor) >= 0.5).float(),
    }),
    "10.4": Exercise(hole_loss, loss_cases, {
        "You divided by all places, inside and outside; divide by the sum of the mask.":
            lambda answer, target, mask: ((answer - target).square() * mask).mean(),
        "That is the sum over the channels; divide by their number, too.":
            lambda answer, target, mask: ((answer - target).square() * mask).sum() / mask.sum(),
        "That is the error *outside* of the hole: the mask is 1 inside.":
            lambda answer, target, mask: hole_loss(answer, target, 1 - mask),
        "That is the root of it; the loss is the mean of the squares.":
            lambda answer, target, mask: hole_loss(answer, target, mask).sqrt(),
        "That is the mean of the absolute differences; square them.":
            lambda answer, target, mask: ((answer - target).abs() * mask).sum() / (answer.shape[1] * mask.sum()),
        "That counts the whole picture; the known part must not count.":
            lambda answer, target, mask: (answer - target).square().mean(),
    }),
    "10.5": Exercise(paste_softly, soft_cases, {
        "The edge is hard: average the mask over its neighbourhood before you mix.":
            lambda painted, original, mask, radius: mask * painted + (1 - mask) * original,
        "Beyond the picture you counted zeros, so the painted part fades at the picture's own edge: "
        "count_include_pad=False.":
            lambda painted, original, mask, radius:
                original + soften(mask, radius) * (painted - original),
        "Painted and original have changed places.":
            lambda painted, original, mask, radius: paste_softly(original, painted, mask, radius),
        "The softened mask and the hard one are mixed up: weigh the original with 1 minus the *same* soft mask.":
            lambda painted, original, mask, radius:
                soften(mask, radius, count_include_pad=False) * painted + (1 - mask) * original,
        "The square should have 2·radius + 1 pixels a side; yours is smaller.":
            lambda painted, original, mask, radius: paste_softly(painted, original, mask, radius // 2),
    }),
}
