"""Who can wear what, and where it sits: measured by eye on the drawings, in fractions of a sheet's cell."""

from typing import NamedTuple


class Worn(NamedTuple):
    """Something to wear: its words in a caption, the name of its drawing, and how to put it on."""
    words: str
    drawing: str
    size: float = 0.0         # of a hat's cell, relative to the head's
    overlap: float = 0.28     # fraction of a hat's height that covers the head
    on_eyes: bool = False


class Head(NamedTuple):
    """One drawing of a head: where its eyes are, and how to shift a hat from the centre of its top."""
    eye_y: float
    eye_width: float          # of sunglasses
    eye_x: float = 0.5
    hat_y: float = 0.0        # how far down, if ears or horns rise above the head
    hat_size: float = 1.0


WORN = {
    "top hat": Worn("a top hat", "top hat", size=0.72),
    "crown": Worn("a crown", "crown", size=0.74),
    "sunglasses": Worn("sunglasses", "sunglasses", on_eyes=True),
    "bow": Worn("a bow", "ribbon", size=0.55, overlap=0.4),
}


def drawn(fluent: Head, cartoon: Head, sticker: Head) -> dict[str, Head]:
    """The heads of a concept by style; 3d and flat have the same shape."""
    return {"3d": fluent, "flat": fluent, "cartoon": cartoon, "sticker": sticker}


HEADS = {
    "grinning face": drawn(Head(.28, .75), Head(.40, .7), Head(.36, .7)),
    "face with tongue": drawn(Head(.36, .75), Head(.40, .7), Head(.40, .7)),
    "face with medical mask": drawn(Head(.34, .75), Head(.38, .7), Head(.31, .7)),
    "nauseated face": drawn(Head(.45, .75), Head(.44, .7), Head(.37, .7)),
    "crying face": drawn(Head(.46, .75), Head(.43, .7), Head(.46, .7)),
    "face screaming in fear": drawn(Head(.35, .7), Head(.40, .65), Head(.38, .7)),
    "angry face": drawn(Head(.46, .75), Head(.54, .7), Head(.51, .7)),
    "skull": drawn(Head(.47, .8), Head(.48, .75), Head(.38, .7)),
    "pile of poo": drawn(Head(.57, .55), Head(.54, .5), Head(.41, .5)),
    "clown face": drawn(Head(.39, .65), Head(.48, .6), Head(.33, .65)),
    "ghost": drawn(Head(.25, .5), Head(.25, .5, .47), Head(.34, .5, .49)),
    "alien": drawn(Head(.45, .8), Head(.46, .85), Head(.44, .8)),
    "robot": drawn(Head(.44, .65), Head(.51, .6, hat_y=.2), Head(.41, .55)),
    "monkey face": drawn(Head(.43, .5), Head(.47, .55), Head(.47, .55)),
    "dog face": drawn(Head(.42, .55), Head(.51, .55), Head(.42, .55)),
    "fox": drawn(Head(.51, .6, hat_y=.08), Head(.55, .55, hat_y=.12), Head(.49, .5, hat_y=.1)),
    "cat face": drawn(Head(.55, .6, hat_y=.12), Head(.54, .65, hat_y=.06), Head(.54, .65, hat_y=.1)),
    "lion": drawn(Head(.46, .5), Head(.38, .5), Head(.46, .5)),
    "tiger face": drawn(Head(.47, .6), Head(.34, .6), Head(.5, .55)),
    "cow face": drawn(Head(.45, .55, hat_y=.07), Head(.44, .5, hat_y=.06), Head(.35, .55)),
    "pig face": drawn(Head(.44, .6), Head(.51, .65), Head(.48, .75)),
    "bear": drawn(Head(.5, .6), Head(.47, .6), Head(.5, .6)),
    "koala": drawn(Head(.51, .6), Head(.46, .6), Head(.51, .55)),
    "panda": drawn(Head(.49, .65), Head(.48, .7), Head(.48, .65)),
    "owl": drawn(Head(.29, .6, hat_y=-.05), Head(.31, .5, hat_y=.02), Head(.23, .55, hat_y=-.05)),
    "frog": drawn(
        Head(.23, .85, hat_y=-.01, hat_size=.8), Head(.26, .75, hat_y=-.01, hat_size=.8),
        Head(.22, .8, hat_y=.04, hat_size=.75)),
    "teddy bear": drawn(
        Head(.26, .38, hat_y=.02, hat_size=.65), Head(.25, .34, hat_y=.03, hat_size=.6),
        Head(.25, .34, hat_y=.03, hat_size=.6)),
    "halloween pumpkin": drawn(Head(.43, .6, hat_y=.04), Head(.41, .65, hat_y=.1), Head(.41, .65, hat_y=.08)),
}
