"""Scenes: what a picture shows, what its caption mentions, and which combinations are never trained on.

A `Scene` is a record of plain values that determines a picture to the last pixel. Its caption mentions any subset of
them; the rest is drawn at random. So one caption has many pictures, as captions do in real life.
"""

import hashlib
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from minisd.emoji.heads import HEADS, WORN

T = TypeVar("T")

STYLES = {"3d": "3d render", "flat": "flat icon", "cartoon": "cartoon", "sticker": "sticker"}
BACKGROUNDS = {  # far enough apart that the word can be read off a picture
    "white": (255, 255, 255), "black": (20, 20, 20), "grey": (128, 128, 128), "red": (215, 35, 45),
    "orange": (255, 140, 20), "yellow": (255, 225, 50), "green": (40, 160, 70), "cyan": (70, 215, 220),
    "blue": (35, 95, 220), "purple": (130, 45, 180), "pink": (255, 150, 200), "brown": (120, 72, 36),
}
SIZES = {"small": 46, "usual": 88, "large": 114}  # pixels of the thing's longer side, of 128
PLACES = {"centre": ("", 0, 0), "top": ("at the top", 0, -1), "bottom": ("at the bottom", 0, 1),
          "left": ("on the left", -1, 0), "right": ("on the right", 1, 0),
          "top left": ("at the top left", -1, -1), "top right": ("at the top right", 1, -1),
          "bottom left": ("at the bottom left", -1, 1), "bottom right": ("at the bottom right", 1, 1)}
PATTERNS = ("plain", "striped", "dotted", "checked", "gradient")
RELATIONS = ("and", "next to", "above", "below")  # of two things; the first two leave open which one is where
NUMBERS = {1: "", 2: "two", 3: "three", 4: "four"}
PARAPHRASES = 6
IRREGULAR = {"die": "dice", "leaf": "leaves", "snowman": "snowmen", "fish": "fish", "cactus": "cacti",
             "volcano": "volcanoes"}


@dataclass(frozen=True)
class Scene:
    """What a picture shows and how its caption is worded; the words are those of the tables above.

    Only a single thing can have a size, a place and something worn; two things, or several of one, have a fixed size
    and layout. Lengths are pixels of a 128-pixel picture.
    """
    concept: str
    style: str = "3d"
    background: str = "white"
    size: str = "usual"
    place: str = "centre"
    paraphrase: int = 0            # 0 is the canonical "a 3d render of a pizza on a blue background"
    says_background: bool = True
    # More parts
    other: str = ""                # a second thing
    relation: str = "and"          # of the first thing to the second
    count: int = 1                 # how many there are of a single kind of thing
    worn: str = ""                 # what the head is wearing
    pattern: str = "plain"         # of the ground
    second: str = ""               # the pattern's other colour: of stripes, dots or checks, or at the gradient's end
    # What the caption mentions
    says_thing: bool = True        # if not, then not size, place, number or what is worn either
    says_style: bool = True
    says_size: bool = True
    says_place: bool = True
    says_count: bool = True
    says_worn: bool = True
    # What captions never mention
    tilt: float = 0.0              # degrees, clockwise
    shift: tuple[float, float] = (0.0, 0.0)  # right and down
    scale: float = 1.0
    swapped: bool = False          # reverses the order, where the words leave it open
    angle: int = 90                # direction of the pattern: degrees from the right, clockwise
    period: float = 32.0           # of the pattern
    phase: tuple[float, float] = (0.0, 0.0)  # where the pattern begins, in periods

    @property
    def colours(self) -> tuple[str, ...]:
        """The one or two colours of the ground."""
        return (self.background,) if self.pattern == "plain" else (self.background, self.second)

    @property
    def things(self) -> tuple[str, ...]:
        """The names of the one or two concepts."""
        return (self.concept, self.other) if self.other else (self.concept,)


# The split

def is_held_out(code: str, style: str, background: str) -> bool:
    """Whether a combination (concept, style, colour of the ground) is in the tenth that is never trained on.

    The first byte of a SHA-256 decides, so the split is the same on every machine and does not change when concepts
    are added. White, the usual background, is never held out, and no concept or style is held out altogether.
    """
    return background != "white" and _byte(f"{code} {style} {background}") < 26


def is_worn_held_out(code: str, worn: str) -> bool:
    """Whether a combination (head, what it wears) is in the quarter or so that is never trained on, in any style."""
    return _byte(f"{code} under {worn}") < 64


def is_pair_held_out(code: str, other: str) -> bool:
    """Whether two concepts, in either order, are among the four in five pairs that are never trained on."""
    return _byte(" and ".join(sorted((code, other)))) < 205


def _byte(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


# Words

def check(what: str, value: T, known: Collection) -> T:
    """Return the value if it is a known one; otherwise raise a ValueError that lists the known ones."""
    if value not in known:
        raise ValueError(f"{what}: {value!r}; it must be one of {', '.join(map(str, known))}")
    return value


def validate(scene: Scene, articles: Mapping[str, str]) -> None:
    """Raise a ValueError for words that are not in the tables, and for parts that do not go together.

    articles: of each concept, "" for plurals and things that are not countable.
    """
    for what, known in (("style", STYLES), ("background", BACKGROUNDS), ("size", SIZES), ("place", PLACES),
                        ("paraphrase", range(PARAPHRASES)), ("relation", RELATIONS), ("count", NUMBERS),
                        ("pattern", PATTERNS)):
        check(what, getattr(scene, what), known)
    for what, least, most in (("scale", 0.1, 2), ("period", 4, 128)):
        if not least <= getattr(scene, what) <= most:
            raise ValueError(f"{what}: {getattr(scene, what)}; it must be from {least} to {most}")
    if scene.pattern == "plain":
        check("second", scene.second, ("",))
    else:
        check("second", scene.second, [colour for colour in BACKGROUNDS if colour != scene.background])
    if scene.worn:
        check("worn", scene.worn, WORN)
        if scene.concept not in HEADS:
            raise ValueError(f"worn: {scene.worn!r} on {scene.concept!r}, which has no head in HEADS")
    if scene.other == scene.concept:
        raise ValueError(f"other: {scene.other!r} is the concept, too; for several of one thing use count")
    if scene.count > 1 and not articles[scene.concept]:
        raise ValueError(f"count: {scene.count} of {scene.concept!r}, which cannot be counted")
    several = "other" if scene.other else "count"
    alone = {"worn": "", "size": "usual", "place": "centre"} | ({"count": 1} if scene.other else {})
    for what, value in alone.items():
        if (scene.other or scene.count > 1) and getattr(scene, what) != value:
            raise ValueError(f"{what}: {getattr(scene, what)!r} beside {several}={getattr(scene, several)!r}; "
                             f"it must be {value!r} if there is more than one thing")


def plural(name: str) -> str:
    """The plural of a concept's name: "cup of coffee", "cups of coffee"; "maple leaf", "maple leaves"."""
    noun, *rest = re.split(r"(?= (?:of|in|with|screaming) )", name, maxsplit=1)
    *first, last = noun.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "es" if re.search(r"(s|x|z|ch|sh)$", last) else "s"
    return " ".join([*first, last]) + "".join(rest)


def thing_words(scene: Scene, articles: Mapping[str, str]) -> tuple[str, str]:
    """The thing or things with and without articles: "a small frog", "small frog"."""
    size = "" if scene.size == "usual" or not scene.says_size else scene.size
    if scene.count > 1:
        words = f"{NUMBERS[scene.count] if scene.says_count else ''} {plural(scene.concept)}".strip()
        return words, words
    bare = f"{size} {scene.concept}".strip()
    article = "a" if size and articles[scene.concept] else articles[scene.concept]
    full = f"{article} {bare}".strip()
    if scene.other:
        return (f"{full} {scene.relation} {articles[scene.other]} {scene.other}".replace("  ", " "),
                f"{bare} {scene.relation} {scene.other}")
    if scene.worn and scene.says_worn:
        verb = ("wearing", "wearing", "with", "wearing", "in", "with")[scene.paraphrase]
        return f"{full} {verb} {WORN[scene.worn].words}", f"{bare} {verb} {WORN[scene.worn].words}"
    return full, bare


def ground_words(scene: Scene) -> tuple[str, str, str]:
    """The ground with its article, without it, and in short: "a blue background", "blue background", "blue"."""
    first, second = scene.background, scene.second
    if scene.pattern == "plain":
        return f"{'an' if first == 'orange' else 'a'} {first} background", f"{first} background", first
    if scene.pattern == "gradient":
        return f"a gradient from {first} to {second}", f"gradient from {first} to {second}", f"{first} to {second}"
    bare = f"{scene.pattern} {first} and {second} background"
    short = {"striped": f"{first} and {second} stripes", "checked": f"{first} and {second} checks",
             "dotted": f"{first} with {second} dots"}[scene.pattern]
    return f"a {bare}", bare, short


def caption(scene: Scene, articles: Mapping[str, str]) -> str:
    """The caption of a scene, in one of six forms; size and place are mentioned only if they are unusual.

    articles: of each concept. Raises a ValueError as `validate` does.
    """
    validate(scene, articles)
    art = STYLES[scene.style] if scene.says_style else ""
    ground, bare_ground, short_ground = ground_words(scene) if scene.says_background else ("", "", "")
    on, on_short = ground and f"on {ground}", short_ground and f"on {short_ground}"
    if not scene.says_thing:
        shapes = [[f"a {art} {on}" if art else ground], [art, bare_ground]]
        parts = shapes[scene.paraphrase % 2]
    else:
        thing, bare = thing_words(scene, articles)
        where = PLACES[scene.place][0] if scene.says_place else ""
        parts = [
            [f"{art and f'a {art} of'} {thing} {where} {on}"],
            [f"{thing} {where}", art, bare_ground],
            [f"{thing} {art and f'as a {art}'} {where} {on}"],
            [f"{art and f'{art}:'} {bare} {where} {on_short}"],
            [f"{thing} {where} {on}", art and f"drawn as a {art}"],
            [bare, where, art, on_short],
        ][scene.paraphrase]
    tidy = (" ".join(part.split()) for part in parts)
    return ", ".join(part for part in tidy if part)


def check_counting(name: str, value: int) -> int:
    """The value, if it is a whole number from 0; else an error."""
    try:
        whole = -1 if isinstance(value, bool) else operator.index(value)  # of a tensor, too
    except TypeError:
        whole = -1
    if whole < 0:
        raise ValueError(f"{name}: {value!r}; it must be a whole number from 0")
    return whole
