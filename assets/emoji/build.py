"""Builds this folder's emoji data set from vector drawings. Run by hand; the result is committed.

    npm install @iconify-json/fluent-emoji@1.2.7 @iconify-json/fluent-emoji-flat@1.2.6 \
                @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 emojibase-data@17.0.0
    pip install resvg-py==0.5.0
    python assets/emoji/build.py node_modules

It takes about five minutes. It writes, beside itself or into the folder given by --out:
    3d.webp, flat.webp, cartoon.webp, sticker.webp   one 64 x 64 cell per concept, with alpha, lossless
    core-3d.webp, core-flat.webp, …                  one 128 x 128 cell per core concept, then the cells of EXTRA
    captions.json                                    one record per cell, in the same order
    contact.webp                                     an overview of the core subset in the four styles
core.txt lists the core subset by name, one per line. With --cell 128 the full set's sheets are as large as the core's,
and EmojiData("full", folder) can then draw at 128 pixels, too.
"""

import argparse
import io
import json
import re
from pathlib import Path

import resvg_py
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
OBJECT = {64: 52, 128: 120}          # pixels of a cell: pixels of its object's longer side
COLUMNS = {"full": 40, "core": 16}   # cells in a row
EXTRA = ["sunglasses", "ribbon"]     # what a head can wear, but is not in the core
PACKAGES = {"3d": "fluent-emoji", "flat": "fluent-emoji-flat", "cartoon": "noto", "sticker": "twemoji"}

# Signs and letters, and the few drawings that do not suit a classroom or have the same shape as another.
LEFT_OUT_SUBGROUPS = {
    "transport signs", "warning symbols", "arrows", "religious symbols", "zodiac signs", "gender signs",
    "audio & video symbols", "math symbols", "punctuation", "currencies", "other symbols",
    "keypad characters", "alphanumeric symbols",
}
LEFT_OUT = re.compile(r": facing right|middle finger|cigarette|love hotel|hundred points|ZZZ|bikini|briefs"
                      r"|drop of blood|medium square|medium-small square|small square|small orange diamond"
                      r"|small blue diamond|square button|radio button|diamond with a dot|breast-feeding")

# What people would type, where the standard's name is more of a label.
RENAMED = {
    "automobile": "car", "oncoming automobile": "car from the front", "sport utility vehicle": "blue car",
    "wrapped gift": "gift", "jack-o-lantern": "halloween pumpkin", "honeybee": "bee",
    "lady beetle": "ladybug", "cricket": "cricket insect", "ewe": "sheep", "hot beverage": "cup of coffee",
    "soft ice cream": "ice cream cone", "ice cream": "bowl of ice cream", "cooking": "fried egg in a pan",
    "ear of corn": "corn", "meat on bone": "meat on a bone", "poultry leg": "chicken leg",
    "steaming bowl": "bowl of noodles", "beer mug": "mug of beer", "wine glass": "glass of wine",
    "cup with straw": "cup with a straw", "mate": "cup of mate", "evergreen tree": "pine tree",
    "deciduous tree": "tree", "high voltage": "lightning bolt", "ringed planet": "planet with a ring",
    "sun with face": "sun with a face", "glowing star": "shining star", "foggy": "foggy city",
    "camping": "campsite", "building construction": "construction site",
    "construction": "construction barrier", "wedding": "wedding chapel",
    "globe showing Americas": "globe showing the americas", "flying saucer": "ufo",
    "airplane departure": "departing airplane", "airplane arrival": "landing airplane",
    "hourglass done": "hourglass", "hourglass not done": "running hourglass", "optical disk": "cd",
    "headphone": "headphones", "tennis": "tennis racket", "bowling": "bowling ball and pins",
    "ping pong": "ping pong paddle", "badminton": "badminton racket", "lacrosse": "lacrosse stick",
    "game die": "die", "magnifying glass tilted left": "magnifying glass", "dna": "dna helix",
    "x-ray": "x-ray picture", "closed book": "red book", "e-mail": "email envelope",
    "flower playing cards": "flower playing card", "bookmark tabs": "page with bookmark tabs",
    "card index dividers": "card divider", "chart increasing": "rising chart",
    "chart decreasing": "falling chart", "chart increasing with yen": "rising chart with a yen sign",
    "locked": "padlock", "unlocked": "open padlock", "locked with pen": "padlock with a pen",
    "locked with key": "padlock with a key", "man’s shoe": "brown shoe", "woman’s hat": "straw hat",
    "woman’s clothes": "blouse", "woman’s sandal": "sandal", "woman’s boot": "boot",
    "rescue worker’s helmet": "rescue helmet", "star-struck": "face with star eyes",
    "smiling face with heart-eyes": "smiling face with heart eyes",
    "smiling cat with heart-eyes": "cat with heart eyes",
    "rolling on the floor laughing": "face rolling on the floor laughing", "dizzy": "dizzy star",
    "dashing away": "puff of dust", "index pointing up": "hand pointing up",
    "index pointing at the viewer": "hand pointing at the viewer",
    "backhand index pointing left": "hand pointing left",
    "backhand index pointing up": "back of a hand pointing up",
    "backhand index pointing down": "hand pointing down", "man: bald": "bald man",
    "woman: bald": "bald woman", "person: bald": "bald person",
    "person in suit levitating": "levitating person in a suit", "black large square": "black square",
    "white large square": "white square", "large orange diamond": "orange diamond",
    "large blue diamond": "blue diamond", "red triangle pointed up": "red triangle",
    "red triangle pointed down": "upside-down red triangle",
}
PLURAL = re.compile(
    r"^(cherries|blueberries|peanuts|beans|french fries|pancakes|eyes|lungs|glasses|sunglasses|goggles|jeans"
    r"|socks|gloves|shorts|skis|scissors|maracas|headphones|chopsticks|books|houses|sparkles|fireworks|grapes"
    r"|footprints|bubbles|chains|musical notes|ballet shoes|shopping bags|control knobs|nesting dolls"
    r"|japanese dolls|hot springs|paw prints|two hearts|revolving hearts|sweat droplets|admission tickets"
    r"|performing arts|film frames|people .*|men .*|women .*|(hammer and|fork and knife|crossed|clinking).*"
    r"|linked paperclips|prayer beads|(clapping|raising|folded|open|heart) hands|palms up together"
    r"|busts in silhouette|pinched fingers|thumbs (up|down))$")
MASS = re.compile(
    r"^(broccoli|bacon|bread|flatbread|baguette bread|garlic|ginger root|leafy green|corn|popcorn|butter|salt"
    r"|sushi|spaghetti|oden|sake|ice|shaved ice|dango|fondue|cooked rice|curry rice|custard|fog|fire|yarn"
    r"|thread|coral|wood|soap|bubble tea|canned food|falafel|money with wings|horse racing|ice hockey"
    r"|field hockey|sunrise.*|sunset|night with stars|cityscape.*|milky way|pouring liquid|santa claus"
    r"|mrs\. claus|mx claus|mount fuji|tokyo tower|statue of liberty)$")


def join_key(code: str) -> str:
    """Code points in a form that all sources share: lower case, no variation selector, no leading zeros."""
    return "-".join(part.lstrip("0") for part in code.lower().split("-") if part != "fe0f")


def clean_name(label: str) -> str:
    """The words for a drawing, from the standard's label: "man: red hair" becomes "man with red hair"."""
    if label in RENAMED:
        return RENAMED[label]
    name = label.lower().replace("’", "'")
    name = re.sub(r"^(\w+): (beard)$", r"\1 with a \2", name)
    name = re.sub(r"^(\w+): (.+)$", r"\1 with \2", name)
    return re.sub(r"^((?:\w+ o'clock)|(?:\w+-thirty))$", r"clock showing \1", name)


def article(name: str) -> str:
    """ "a", "an", or "" before plurals and things that are not countable."""
    if PLURAL.match(name) or MASS.match(name):
        return ""
    spoken_with_y = name.startswith(("uni", "ufo", "eu", "one"))
    vowel = (name[0] in "aeiou" and not spoken_with_y) or name.startswith(("hourglass", "x-ray"))
    return "an" if vowel else "a"


def render(icons: dict, name: str, pixels: int) -> Image.Image:
    """One icon as an RGBA picture of pixels x pixels, centred where it is not square."""
    icon = icons["icons"][name]
    left, top, width, height = (icon.get(k, icons.get(k, d)) for k, d in
                                (("left", 0), ("top", 0), ("width", 16), ("height", 16)))
    side = max(width, height)
    view = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
           f'viewBox="{view}" width="{pixels}" height="{pixels}">{icon["body"]}</svg>')
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def bounding_box(picture: Image.Image) -> tuple[int, int, int, int]:
    """The bounding box of what is visible in a picture: alpha above 6 %."""
    return picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()


def fit(picture: Image.Image, box: tuple[int, int, int, int], pixels: int) -> Image.Image:
    """The contents of the box, scaled down to OBJECT[pixels] along the longer side and centred in a cell."""
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height)
    square = Image.new("RGBA", (side, side))
    square.paste(picture.crop(box), ((side - width) // 2, (side - height) // 2))
    # Pillow premultiplies alpha when it resizes RGBA: no dark or light halo at the edges.
    small = square.resize((OBJECT[pixels], OBJECT[pixels]), Image.Resampling.HAMMING)
    cell = Image.new("RGBA", (pixels, pixels))
    cell.paste(small, ((pixels - OBJECT[pixels]) // 2, (pixels - OBJECT[pixels]) // 2))
    return cell


def draw_cells(sources: dict, codes: dict, key: str, pixels: int) -> dict[str, Image.Image]:
    """The four cells of one concept, rendered at four times the size and scaled down."""
    pictures = {style: render(sources[style], codes[style][key], 4 * pixels) for style in PACKAGES}
    boxes = {style: bounding_box(picture) for style, picture in pictures.items()}
    # The 3d and the flat drawing have the same shape; one box for both keeps them aligned.
    pair = boxes["3d"], boxes["flat"]
    boxes["3d"] = boxes["flat"] = tuple(f(sides) for f, sides in zip((min, min, max, max), zip(*pair)))
    return {style: fit(pictures[style], boxes[style], pixels) for style in PACKAGES}


def save_sheets(cells: list[dict[str, Image.Image]], columns: int, folder: Path, prefix: str = "") -> None:
    """One lossless sheet per style: the cells from left to right, `columns` in a row."""
    for style in PACKAGES:
        side = cells[0][style].width
        sheet = Image.new("RGBA", (columns * side, -(-len(cells) // columns) * side))
        for n, styles in enumerate(cells):
            sheet.paste(styles[style], (n % columns * side, n // columns * side))
        sheet.save(folder / f"{prefix}{style}.webp", lossless=True, quality=100, method=6)


def contact_sheet(records: list[dict], cells: list[dict], columns: int = 6, side: int = 52) -> Image.Image:
    """Core concepts in four styles side by side, on white, with their names below."""
    chosen = [(r, c) for r, c in zip(records, cells) if r["core"]]
    width, height = 4 * side + 12, side + 16
    sheet = Image.new("RGB", (columns * width, -(-len(chosen) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (record, styles) in enumerate(chosen):
        x, y = n % columns * width, n // columns * height
        for k, style in enumerate(PACKAGES):
            small = styles[style].resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(small, (x + k * side, y), small)
        pen.text((x + 4, y + side), record["name"], fill="black")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("node_modules", type=Path, help="the folder into which npm installed the packages")
    parser.add_argument("--cell", type=int, choices=OBJECT, default=64, help="size of the full set's cells in pixels")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write, if not beside this file")
    options = parser.parse_args()
    folder = options.node_modules

    def load(path: str):
        return json.loads((folder / path).read_text(encoding="utf-8"))

    sources = {style: load(f"@iconify-json/{package}/icons.json") for style, package in PACKAGES.items()}
    codes = {style: {join_key(k): v for k, v in load(f"@iconify-json/{package}/chars.json").items()}
             for style, package in PACKAGES.items()}
    codes["3d"] = codes["flat"]   # the 3-D package's own table is empty; both packages use the same names
    messages = load("emojibase-data/en/messages.json")
    subgroups = {g["order"]: g["message"] for g in messages["subgroups"]}
    core = (HERE / "core.txt").read_text(encoding="utf-8").split("\n")[:-1]

    records, cells, fine = [], [], {}
    for emoji in load("emojibase-data/en/data.json"):
        key, subgroup = join_key(emoji["hexcode"]), subgroups.get(emoji.get("subgroup"))
        if subgroup is None or subgroup in LEFT_OUT_SUBGROUPS or LEFT_OUT.search(emoji["label"]):
            continue
        if not all(codes[style].get(key) in sources[style]["icons"] for style in PACKAGES):
            continue
        name = clean_name(emoji["label"])
        records.append({"index": len(records), "name": name, "article": article(name), "core": name in core,
                        "code": key})
        cells.append(draw_cells(sources, codes, key, options.cell))
        if name in core or name in EXTRA:
            fine[name] = draw_cells(sources, codes, key, 128)

    names = [r["name"] for r in records]
    if wrong := {n for n in names if names.count(n) > 1} | (set(core) - set(names)):
        raise SystemExit(f"names used twice, or in core.txt but not drawn in all styles: {sorted(wrong)}")
    options.out.mkdir(parents=True, exist_ok=True)
    save_sheets(cells, COLUMNS["full"], options.out)
    save_sheets([fine[r["name"]] for r in records if r["core"]] + [fine[name] for name in EXTRA],
                COLUMNS["core"], options.out, prefix="core-")
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    (options.out / "captions.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    contact_sheet(records, cells).save(options.out / "contact.webp", quality=85, method=6)
    print(f"{len(records)} concepts, {sum(r['core'] for r in records)} of them core")


if __name__ == "__main__":
    main()
