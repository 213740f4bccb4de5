"""Pictures from scenes: things with their size, place and tilt, what they wear, and the ground behind them.

All drawings have *premultiplied* alpha (Porter and Duff 1984): colour times opacity, which Pillow calls "RGBa". Only
then can they be rotated, resized and laid over one another without dark or light seams along their outlines. Lengths
are pixels of a 128-pixel picture, as in `Scene`, even if a smaller picture is drawn.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from minisd.emoji.heads import HEADS, WORN
from minisd.emoji.scene import BACKGROUNDS, PLACES, SIZES, Scene

Sprite = Callable[[str, str], np.ndarray]  # from (name, style) to a cell (C, C, 4) of bytes

OBJECT = {64: 52, 128: 120}  # size of a cell: longer side of the drawing in it, in pixels
EDGE = 4             # transparent pixels around a drawing, so that its outline stays soft when it is rotated
MARGIN = 4           # between the frame and a thing at the edge
PAIR, FEW = 57, 54   # the longer side of each of two things, and of each of three or four
LEANS = (1.0, -0.7, 0.4, -1.0)  # tilts of the first, second, … thing, relative to the scene's
LAYOUTS: dict[int, list[tuple[float, float]]] = {  # number of things: their centres
    1: [(64, 64)], 2: [(33, 64), (95, 64)], 3: [(64, 35), (34, 93), (94, 93)],
    4: [(34, 34), (94, 34), (34, 94), (94, 94)],
}
WORN_SIZES = {"small": 56, "usual": 102, "large": 122}  # the longer side of a head and its hat together
CROWN_ROWS = 30      # of 128: rows that count as the top of a head


def premultiplied(cell: np.ndarray) -> Image.Image:
    """A sheet's cell, (C, C, 4) bytes with straight alpha, as a Pillow picture in mode "RGBa"."""
    return Image.fromarray(cell).convert("RGBa")


def cropped(picture: Image.Image, edge: int = 0) -> Image.Image:
    """The visible part of a picture, with an edge around it."""
    rows, columns = np.nonzero(np.asarray(picture)[..., 3] > 16)
    return picture.crop((int(columns.min()) - edge, int(rows.min()) - edge,
                         int(columns.max()) + 1 + edge, int(rows.max()) + 1 + edge))


def dress(head: Image.Image, worn: Image.Image, concept: str, style: str, what: str) -> Image.Image:
    """A head with something on it: two premultiplied cells of one size in, one larger picture out, cropped to an EDGE.

    A hat is centred on the uppermost rows of the head's outline, sunglasses go over its eyes. `HEADS` says where the
    eyes are, and has corrections for heads with ears or horns.
    """
    side = head.width
    place, fit = HEADS[concept][style], WORN[what]
    canvas = Image.new("RGBa", (2 * side, 2 * side))
    canvas.paste(head, (side // 2, side))
    alpha = np.asarray(head)[..., 3] > 16
    if fit.on_eyes:
        thing = cropped(worn)
        width = round(side * place.eye_width)
        thing = thing.resize((width, round(thing.height * width / thing.width)), Image.Resampling.HAMMING)
        left = side // 2 + round(side * place.eye_x) - width // 2
        top = side + round(side * place.eye_y) - thing.height // 2
    else:
        top_row = int(alpha.any(axis=1).argmax())
        columns = np.nonzero(alpha[top_row: top_row + round(CROWN_ROWS / 128 * side)].any(axis=0))[0]
        thing = cropped(worn)
        share = fit.size * place.hat_size
        thing = thing.resize((round(thing.width * share), round(thing.height * share)), Image.Resampling.HAMMING)
        left = side // 2 + round((columns[0] + columns[-1] - thing.width) / 2)
        top = side + round(top_row + side * place.hat_y - thing.height * (1 - fit.overlap))
    return cropped(over(canvas, thing, (left, top)), EDGE)


def over(below: Image.Image, above: Image.Image, corner: tuple[int, int]) -> Image.Image:
    """One premultiplied picture laid over another: above + (1 - alpha) below."""
    layer = Image.new("RGBa", below.size)
    layer.paste(above, corner)
    top, bottom = np.asarray(layer).astype(np.float32), np.asarray(below).astype(np.float32)
    result = top + bottom * (1 - top[..., 3:] / 255)
    return Image.frombytes("RGBa", below.size, result.round().astype(np.uint8).tobytes())


def compose(scene: Scene, sprite: Sprite, resolution: int) -> np.ndarray:
    """Everything but the ground: (R, R, 4), float in [0, 1], premultiplied.

    sprite: a function from (name, style) to a cell (C, C, 4) of bytes.
    """
    layer = np.zeros((resolution, resolution, 4), np.float32)
    for pixels, top, left in pieces(scene, sprite, resolution):
        (y, y_end), (x, x_end) = (np.clip((start, start + length), 0, resolution)  # the part inside the frame
                                  for start, length in zip((top, left), pixels.shape))
        part = pixels[y - top: y_end - top, x - left: x_end - left]
        layer[y: y_end, x: x_end] = part + layer[y: y_end, x: x_end] * (1 - part[..., 3:])
    return layer


def pieces(scene: Scene, sprite: Sprite, resolution: int) -> list[tuple[np.ndarray, int, int]]:
    """The things as `turned` returns them: each is complete, including any part outside the frame."""
    unit, found = resolution / 128, []
    for name, side, (x, y), tilt in layout(scene):
        picture = premultiplied(sprite(name, scene.style))
        if scene.worn:
            worn = premultiplied(sprite(WORN[scene.worn].drawing, scene.style))
            picture = dress(picture, worn, name, scene.style, scene.worn)
            longer = max(picture.size) - 2 * EDGE
        else:
            longer = OBJECT[picture.width]
        found.append(turned(picture, side * unit / longer, (x * unit, y * unit), tilt))
    return found


def turned(picture: Image.Image, scale: float, centre: tuple[float, float], tilt: float
           ) -> tuple[np.ndarray, int, int]:
    """A premultiplied picture, resized by a factor, rotated clockwise by `tilt` degrees and centred at (x, y).

    Returns its pixels (h, w, 4), float in [0, 1], premultiplied, and the row and column of the top left one, which may
    lie outside the picture that they are drawn into.
    """
    width, height = (length * scale for length in picture.size)
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    half_width = (width * abs(cos) + height * abs(sin)) / 2
    half_height = (width * abs(sin) + height * abs(cos)) / 2
    left, top = math.floor(centre[0] - half_width), math.floor(centre[1] - half_height)
    right, bottom = math.ceil(centre[0] + half_width), math.ceil(centre[1] + half_height)
    # Drawn at twice the size, then averaged: sharp, and without the halo that a bicubic filter's overshoot would leave.
    # The inverse rotation says where each pixel of the result comes from.
    x, y = 2 * (centre[0] - left), 2 * (centre[1] - top)
    cos, sin = cos / (2 * scale), sin / (2 * scale)
    inverse = (cos, sin, picture.width / 2 - cos * x - sin * y, -sin, cos, picture.height / 2 + sin * x - cos * y)
    large = picture.transform((2 * (right - left), 2 * (bottom - top)), Image.Transform.AFFINE, inverse,
                              Image.Resampling.BILINEAR)
    return np.asarray(large.reduce(2)).astype(np.float32) / 255, top, left


def layout(scene: Scene) -> list[tuple[str, float, tuple[float, float], float]]:
    """Where things are: (name, longer side, centre (x, y), tilt) of each, in pixels of a 128-pixel picture."""
    names, middles = [scene.concept] * scene.count, LAYOUTS[scene.count]
    if scene.other:
        side, names, middles = PAIR, [scene.concept, scene.other], LAYOUTS[2]
        upright = scene.relation in ("above", "below")
        if scene.relation == "below" or (scene.swapped and not upright):
            names = names[::-1]
        if upright:
            middles = [(y, x) for x, y in middles]
    elif scene.count > 1:
        side = PAIR if scene.count == 2 else FEW
        if scene.swapped:  # two: one above the other; three: the triangle upside down
            middles = [(y, x) if scene.count == 2 else (x, 128 - y) for x, y in middles]
    else:
        side = (WORN_SIZES if scene.worn and not WORN[scene.worn].on_eyes else SIZES)[scene.size]
        _, right, down = PLACES[scene.place]
        step = max(0.0, 64 - MARGIN - side / 2)
        middles = [(64 + step * right, 64 + step * down)]
    return [(name, side * scene.scale, (x + scene.shift[0], y + scene.shift[1]), scene.tilt * lean)
            for name, (x, y), lean in zip(names, middles, LEANS)]


def ground(scene: Scene, resolution: int) -> np.ndarray:
    """The ground alone: (R, R, 3), float in [0, 1]. A pattern's edges are one pixel soft: no jaggies, no moiré."""
    first, second = (np.array(BACKGROUNDS[colour], np.float32) / 255
                     for colour in (scene.background, scene.second or scene.background))
    if scene.pattern == "plain":
        return np.broadcast_to(first, (resolution, resolution, 3))
    unit = resolution / 128
    cos, sin = math.cos(math.radians(scene.angle)), math.sin(math.radians(scene.angle))
    middles = (np.arange(resolution, dtype=np.float32) + 0.5) - resolution / 2
    along = middles * np.float32(cos) + (middles * np.float32(sin))[:, None]      # (R, R), pixels from the centre
    if scene.pattern == "gradient":
        share = along / (resolution * (abs(cos) + abs(sin))) + 0.5
    else:
        across = middles[:, None] * np.float32(cos) - middles * np.float32(sin)
        period = scene.period * unit
        u, v = ((x / period + phase) % 1 * period - period / 2      # from the centre of the tile, in pixels
                for x, phase in zip((along, across), scene.phase))
        if scene.pattern == "striped":
            share = band(u, period)
        elif scene.pattern == "checked":
            a, b = 2 * band(u, period) - 1, 2 * band(v, period) - 1
            share = (1 - a * b) / 2
        else:
            share = np.clip(0.28 * period - np.sqrt(u * u + v * v) + 0.5, 0, 1)
    return first + (second - first) * share[..., None]


def band(distance: np.ndarray, period: float) -> np.ndarray:
    """1 in the middle half of a period, 0 in the rest, with a transition one pixel wide."""
    return np.clip(period / 4 - np.abs(distance) + 0.5, 0, 1)
