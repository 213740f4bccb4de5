"""What can be read off a picture's pixels without a network: ground, place, size, number, and how clean the ground is.

The palette is known, and so is how grounds are made from it. So every possible ground is compared with the pixels along
the frame, where there is seldom a thing. The ground that explains most of them wins, and what deviates from it is part
of a thing. Where too little can be seen (a white thing on white), the answer is None, not a guess.
"""

from functools import cache
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.emoji.drawing import ground as ground_of
from minisd.emoji.sampling import ANGLES, DIFFERENT
from minisd.emoji.scene import BACKGROUNDS, PLACES, Scene

# Lengths are pixels of a 128-pixel picture; the largest distance between two colours is 441.
RING, EDGE = 10, 4     # widths: of the frame where the ground is read, and of its outer rim, which things hardly touch
RARER = 0.045          # the least share of the rim that a pattern's rarer colour has
NEAR = 50              # the distance within which a pixel has a colour: less than half of that between any two colours
DRAWN = 40             # the distance from the ground's colour beyond which a pixel is part of a thing
LEAST = 120            # the fewest pixels from which a thing can be read
ASIDE = 18             # the distance from the middle beyond which a thing is "on the left" and so on
SMALL, LARGE = 68, 98  # the longer side of a thing of usual size is between these
WITHOUT_HAT = 0.88     # a head's size, relative to its size with a hat on
TURNS = np.radians(np.arange(-20, 21, 4))  # by which a tilted thing is turned upright
APART = 4              # what is taken off all outlines before parts are counted, to separate things that touch
ALIKE = 0.8            # the least area, relative to the largest part's, of another thing of the same kind

PALETTE = np.array(list(BACKGROUNDS.values()), np.float32)   # (12, 3)
NAMES = tuple(BACKGROUNDS)


class Ground(NamedTuple):
    """A ground as read off a picture. The colours of stripes and checks have no order; here it is the palette's."""

    pattern: str                 # "patterned" for stripes, dots or checks, if it is not known which
    colours: tuple[str, ...]
    angle: int = 90              # of a gradient


def as_bytes(picture: Tensor) -> np.ndarray:
    """(3, 128, 128) in [-1, 1] → (128, 128, 3) float from 0 to 255. ValueError for another shape."""
    if tuple(picture.shape) != (3, 128, 128):
        raise ValueError(f"picture: shape {tuple(picture.shape)}; it must be (3, 128, 128)")
    return (picture.detach().float().cpu().clamp(-1, 1).permute(1, 2, 0).numpy() + 1) * 127.5


def read_ground(picture: Tensor, pattern: str | None = None) -> Ground:
    """The ground of a picture (3, 128, 128) in [-1, 1].

    Args:
        pattern: one of PATTERNS, if it is known; None decides between plain, patterned and gradient.
    """
    pixels = as_bytes(picture)
    ring = pixels[frame()]                                                         # (N, 3)
    shares = shares_of(ring)
    found = []
    if pattern in (None, "plain"):
        best = int(shares.argmax())
        found.append((shares[best], Ground("plain", (NAMES[best],))))
    if pattern in (None, "gradient"):
        grounds, colours = gradients()
        explained = (np.linalg.norm(ring[::4] - colours, axis=2) < NEAR).mean(axis=1)   # (gradients,)
        found.append((explained.max(), grounds[int(explained.argmax())]))
    if pattern not in ("plain", "gradient"):
        found.append(two_colours(pixels, pattern))
    return max(found, key=lambda one: one[0])[1]


def shares_of(pixels: np.ndarray) -> np.ndarray:
    """The share of pixels (N, 3) that has each colour: (12,)."""
    return (np.linalg.norm(pixels[:, None] - PALETTE, axis=2) < NEAR).mean(axis=0)


def two_colours(pixels: np.ndarray, pattern: str | None) -> tuple[float, Ground]:
    """The pair of colours that covers most of the frame, and its share of it.

    Unless the ground is known to have two colours, both must occur at the very edge: otherwise one may be
    a thing's.
    """
    shares, edge, wide = (shares_of(pixels[frame(width)]) for width in (RING, EDGE, 2 * RING))

    def both(pair: tuple[int, int]) -> float:
        return float(shares[list(pair)].sum()) if pattern or min(edge[list(pair)]) > RARER else 0.0

    pair = max((pair for pair in combinations(range(len(NAMES)), 2) if DIFFERENT[pair]), key=both)
    if pattern == "dotted" and wide[pair[0]] < wide[pair[1]]:  # dots, the second, cover a quarter
        pair = pair[::-1]
    return both(pair), Ground(pattern or "patterned", tuple(NAMES[colour] for colour in pair))


def same_ground(ground: Ground, scene: Scene) -> bool:
    """Whether a ground that was read is the scene's: its pattern and its colours."""
    if ground.pattern != scene.pattern:
        return False
    if scene.pattern in ("striped", "checked"):
        return set(ground.colours) == set(scene.colours)
    return ground.colours == scene.colours


@cache
def frame(width: int = RING) -> np.ndarray:
    """(128, 128), true along the edges of a picture: at every other pixel, which is enough."""
    ring = np.zeros((128, 128), bool)
    ring[::2, ::2] = True
    ring[width:-width, width:-width] = False
    return ring


@cache
def gradients() -> tuple[list[Ground], np.ndarray]:
    """All gradients, and their colours along the frame, at every fourth pixel: (gradients, N / 4, 3)."""
    grounds = [Ground("gradient", (NAMES[a], NAMES[b]), angle) for a, b in permutations(range(len(NAMES)), 2)
               if DIFFERENT[a, b] for angle in ANGLES["gradient"]]
    return grounds, np.stack([colours_of(ground)[frame()][::4] for ground in grounds])


def colours_of(ground: Ground) -> np.ndarray:
    """The colours of a plain ground or a gradient: (128, 128, 3), 0 to 255."""
    pattern = "gradient" if ground.pattern == "gradient" else "plain"
    return 255 * ground_of(Scene("", background=ground.colours[0], second=ground.colours[-1], pattern=pattern,
                                 angle=ground.angle), 128)


def drawn(picture: Tensor, ground: Ground) -> np.ndarray:
    """Where something is drawn on the ground: (128, 128) of bool.

    On stripes, dots and checks, this is where there is neither of the colours nor, along their edges, a mix of both.
    """
    pixels = as_bytes(picture)
    if len(ground.colours) == 1 or ground.pattern == "gradient":
        return deviates(pixels, colours_of(ground))
    first, second = (PALETTE[NAMES.index(colour)] for colour in ground.colours)
    way = second - first
    share = np.clip((pixels - first) @ way / (way @ way), 0, 1)                    # (128, 128)
    between = [grown(np.linalg.norm(pixels - colour, axis=2) < DRAWN, 4) for colour in (first, second)]
    share = np.where(between[0] & between[1], share, share.round())                # mixes only where both are near
    return deviates(pixels, first + share[..., None] * way)


def deviates(pixels: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Where pixels (128, 128, 3), and most of their neighbours, are not as expected."""
    away = np.linalg.norm(pixels - expected, axis=2) > DRAWN
    around = F.avg_pool2d(torch.from_numpy(away).float()[None], 3, stride=1, padding=1)[0].numpy()
    return away & (around > 0.5)


class Thing(NamedTuple):
    """Where a single thing is and how large."""

    place: str
    size: str


def read_thing(picture: Tensor, ground: Ground | None = None, hat: bool = False) -> Thing | None:
    """Place and size of the single thing in a picture (3, 128, 128) in [-1, 1]; None where too little can be seen.

    The size is measured with the thing turned upright: to where the longer side of the box around it is shortest.

    Args:
        ground: from `read_ground`; None reads it first.
        hat: whether the thing wears a hat, which makes it larger.
    """
    mask = drawn(picture, ground or read_ground(picture))
    if mask.sum() < LEAST:
        return None
    points = np.argwhere(mask)[:, ::-1] - 63.5                                     # (N, 2): right, down
    low, high = extent(points)
    right, down = (int(np.sign(middle)) * (abs(middle) > ASIDE) for middle in (low + high) / 2)
    place = next(name for name, (_, *steps) in PLACES.items() if steps == [right, down])
    sides = []
    for turn in TURNS:
        cos, sin = np.cos(turn), np.sin(turn)
        low, high = extent(points @ np.array([[cos, -sin], [sin, cos]]))
        sides.append((high - low).max() + 1)
    side = min(sides) * (WITHOUT_HAT if hat else 1.0)
    return Thing(place, "small" if side < SMALL else "large" if side > LARGE else "usual")


def extent(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the box around points (N, 2), not counting the outermost few."""
    return np.quantile(points, 0.003, axis=0), np.quantile(points, 0.997, axis=0)


def read_number(picture: Tensor, ground: Ground | None = None) -> int | None:
    """How many things there are, 1 to 4; None where too little can be seen.

    Several things stand side by side, above one another, in a triangle or in a square (`drawing.LAYOUTS`), so there are
    gaps along the middle of the picture, from top to bottom or from left to right. Where tilted things leave no gap,
    there may still be three or four separate parts of about the same size.
    """
    mask = drawn(picture, ground or read_ground(picture))
    if mask.sum() < LEAST:
        return None
    across, along = gap(mask), gap(mask.T)               # between left and right; between top and bottom
    count = (2 + gap(mask[:64]) + gap(mask[64:])) if along else 2 if across else 1
    sizes = np.sort(np.bincount(parts(~grown(~mask, APART)).ravel())[1:])[::-1]
    alike = int((sizes > ALIKE * sizes[:1]).sum())
    certain = alike == 3 or (alike == 4 and count > 1)   # a panda alone on white has four parts
    return max(count, alike) if certain else count


def gap(mask: np.ndarray) -> bool:
    """Whether there is something on the left and on the right, and next to nothing in between."""
    columns = mask.sum(axis=0)
    left, middle, right = columns[:61].sum(), columns[58: 70], columns[67:].sum()
    narrow = np.convolve(middle, np.ones(3) / 3, "valid").min()
    return bool(min(left, right) > 0.2 * columns.sum() and narrow < 0.2 * columns[columns > 0].mean())


def spread(picture: Tensor) -> float:
    """The standard deviation of a plain ground's pixels, of 255, where nothing is drawn.

    The largest thing that stands out from the ground is left out, with six pixels around it; stains beside it count. If
    nothing is left, the frame is measured instead.
    """
    pixels = as_bytes(picture)
    ground = np.median(pixels[frame()], axis=0)                                    # (3,)
    thing = grown(largest(grown(deviates(pixels, ground), 2)), 4)
    clean = frame() if thing.all() else ~thing
    return float(pixels[clean].std(axis=0).mean())


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask and everything within a distance of it."""
    return F.max_pool2d(torch.from_numpy(mask).float()[None], 2 * by + 1, stride=1, padding=by)[0].numpy() > 0


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask."""
    labels = parts(mask)
    areas = np.bincount(labels.ravel(), minlength=2)
    return labels == 1 + areas[1:].argmax()


def parts(mask: np.ndarray) -> np.ndarray:
    """The connected parts of a mask, numbered from 1; 0 elsewhere. Labels spread until they meet an edge.

    This is done at half the size, so parts that are one pixel apart count as connected.
    """
    small = F.max_pool2d(torch.from_numpy(mask).float()[None], 2)
    labels, before = small * torch.arange(1, small.numel() + 1, dtype=torch.float32).view_as(small), None
    while before is None or not torch.equal(labels, before):
        before, labels = labels, F.max_pool2d(labels, 3, stride=1, padding=1) * small
    numbers = np.unique(labels.numpy(), return_inverse=True)[1].reshape(small.shape[1:])
    if not (labels == 0).any():
        numbers = numbers + 1
    return numbers.repeat(2, axis=0).repeat(2, axis=1) * mask
