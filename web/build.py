"""`make site`: the course as web pages, and the page that draws, in out/site.

nbconvert makes the pages, as it makes `make html`: the alternative texts of the pictures are in the notebooks' output
metadata, which mystmd and Jupyter Book drop, and mystmd fetches its theme from a network that a class may not have.
KaTeX sets the formulas here, not in the reader's browser; MiniSearch searches; both, and onnxruntime-web, come from
npm (package-lock.json). Nothing on the pages is fetched from elsewhere.
"""

import argparse
import html
import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from minisd import StableDiffusion
from minisd.emoji import EmojiData
from minisd.export import to_onnx
from minisd.files import assets_folder

WEB = Path(__file__).resolve().parent
ROOT = WEB.parent
NOTEBOOKS = ROOT / "notebooks"
VENDORED = {
    "onnxruntime-web/dist": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
                             "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs",
                             "ort-wasm-simd-threaded.asyncify.wasm"),
    "katex/dist": ("katex.min.css", "fonts"),
    "minisearch/dist/es": ("index.js",),
}
PAGES = {"GLOSSARY.md": "Glossary", "TEACHING.md": "For teachers", "START.md": "Getting started"}


@dataclass(frozen=True)
class Page:
    """A page of the site: its file, its title, and its content as HTML."""

    file: str
    title: str
    body: str
    source: Path


class Renderer(IPythonRenderer):
    """Markdown to HTML, in which formulas are marked for KaTeX, and links to notebooks lead to their pages."""

    def inline_math(self, body: str) -> str:
        return f'<span class="math inline">{html.escape(body)}</span>'

    def block_math(self, body: str) -> str:
        return f'<span class="math display">{html.escape(body)}</span>'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, page_of(url), title)


def page_of(url: str) -> str:
    """08_guidance.ipynb → 08_guidance.html, GLOSSARY.md#noise → glossary.html#noise; other addresses stay."""
    path, mark, anchor = url.partition("#")
    if path.endswith(".ipynb"):
        path = Path(path).name.removesuffix(".ipynb") + ".html"
    elif Path(path).name in PAGES:
        path = Path(path).stem.lower() + ".html"
    elif path == "../README.md":  # a site has its first page instead
        path, mark, anchor = "index.html", "", ""
    return path + mark + anchor


def render(text: str) -> str:
    return MarkdownWithMath(renderer=Renderer(escape=False)).render(text)


# --- pages ----------------------------------------------------------------------------------------------------


def chapter(path: Path, out: Path) -> Page:
    """A notebook as a page; its pictures go to out/pictures."""
    exporter = HTMLExporter(template_name="site", extra_template_basedirs=[str(WEB / "templates")], config=Config({
        "ExtractOutputPreprocessor": {"enabled": True},
        "TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": ["setup"]}}))
    exporter.register_filter("markdown2html", lambda text, **_: render(text))
    notebook = nbformat.read(path, as_version=4)
    body, resources = exporter.from_notebook_node(notebook, {
        "unique_key": path.stem, "output_files_dir": f"pictures/{path.stem}"})
    for name, data in resources["outputs"].items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    title = next(line for line in notebook.cells[0].source.splitlines() if line.startswith("# ")).removeprefix("# ")
    return Page(f"{path.stem}.html", title, body, path)


def text_page(path: Path, title: str) -> Page:
    return Page(f"{path.stem.lower()}.html", title, f"<div class=\"prose\">{render(path.read_text())}</div>", path)


def address() -> str | None:
    """Where the project lives, from pyproject.toml; None while it has no address."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        urls = tomllib.load(file)["project"].get("urls", {})
    return urls.get("Repository")


def buttons(page: Page) -> str:
    """Where a chapter can be opened: in Colab and Binder, if the project has an address, and as a file."""
    if page.source.suffix != ".ipynb":
        return ""
    links = [(f"{page.source.name}", "Download the notebook", " download")]
    if (repository := address()) and "github.com/" in repository:
        where = repository.split("github.com/")[1].strip("/")
        path = page.source.relative_to(ROOT)
        links[:0] = [(f"https://colab.research.google.com/github/{where}/blob/main/{path}", "Open in Colab", ""),
                     (f"https://mybinder.org/v2/gh/{where}/main?labpath={path}", "Open in Binder", "")]
    return '<p class="open">' + "".join(
        f'<a class="button small" href="{url}"{more}>{label}</a>' for url, label, more in links) + "</p>"


def write_page(page: Page, chapters: list[Page], others: list[Page], out: Path) -> None:
    """Put the frame around a page: navigation, the way onwards, and the search."""
    template = (WEB / "page.html").read_text()
    def items(pages: list[Page]) -> str:
        return "".join(f'<li><a href="{one.file}"{" aria-current=page" if one is page else ""}>{one.title}</a></li>'
                       for one in pages)
    onwards = ""
    if page in chapters:
        i = chapters.index(page)
        around = [("prev", "← {}", chapters[i - 1])] if i else []
        around += [("next", "{} →", chapters[i + 1])] if i + 1 < len(chapters) else []
        onwards = "".join(f'<a rel="{rel}" href="{one.file}">{label.format(one.title)}</a>'
                          for rel, label, one in around)
    fields = {"title": html.escape(re.sub(r"[*`]", "", page.title)), "body": page.body, "chapters": items(chapters),
              "others": items(others), "onwards": onwards, "buttons": buttons(page)}
    (out / page.file).write_text(re.sub(r"{{(\w+)}}", lambda match: fields[match[1]], template))


def sections(page: Page) -> list[dict[str, str]]:
    """What the search looks through: a page's text, from one heading with an anchor to the next."""
    parts = re.split(r'<h[1-3] id="([^"]+)">(.*?)</h[1-3]>', page.body, flags=re.S)
    found = []
    for anchor, heading, body in zip(parts[1::3], parts[2::3], parts[3::3]):
        text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", body, flags=re.S)
        heading = re.sub(r"<a class=\"anchor-link\".*?</a>|<[^>]+>", "", heading)
        found.append({"id": f"{page.file}#{anchor}", "page": page.title, "title": html.unescape(heading).strip(),
                      "text": " ".join(html.unescape(text).split())[:4000]})
    return found


# --- the model and what it knows ------------------------------------------------------------------------------


def write_words(folder: Path, count: int = 60) -> None:
    """words.json: prompts to suggest, and every word that the model has heard."""
    data = EmojiData("core")
    captions = data.batch(range(4000), seed=0)[1]
    known = sorted({word for caption in captions for word in re.findall(r"[^\W\d_]+", caption.lower())})
    (folder / "words.json").write_text(json.dumps({"prompts": captions[:count], "known": known}))


def write_models(out: Path) -> None:
    for name, attention in (("mini", True), ("mini-inpaint", False)):
        sd = StableDiffusion.from_pretrained(assets_folder() / name, device="cpu")
        for part, difference in to_onnx(sd, out / name, "fp16", attention).items():
            print(f"{name} {part}: differs from PyTorch by at most {difference:.1e} of its largest value")
    write_words(out / "mini")


# --- all of it ------------------------------------------------------------------------------------------------


def fetch_packages() -> str:
    """Install what package-lock.json names into web/node_modules. Returns the path of node."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        raise SystemExit("make site needs Node.js and npm, which are not on the PATH: see https://nodejs.org")
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=WEB, check=True)
    return node


def copy_files(out: Path) -> None:
    """The page that draws, and the packages' files that pages load."""
    out.mkdir(parents=True, exist_ok=True)
    for path in WEB.iterdir():
        if path.suffix in (".js", ".css", ".svg") or path.name == "draw.html":
            shutil.copy(path, out)
    for package, names in VENDORED.items():
        for name in names:
            source, target = WEB / "node_modules" / package / name, out / "vendor" / name
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    (out / "vendor" / "index.js").rename(out / "vendor" / "minisearch.js")


def build(out: Path, models: bool = True) -> None:
    node = fetch_packages()
    kept = out / "models"
    for old in out.iterdir() if out.is_dir() else ():
        if old != kept:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    copy_files(out)
    chapters = [chapter(path, out) for path in sorted(NOTEBOOKS.glob("[01]*.ipynb"))]
    others = [text_page(NOTEBOOKS / name, title) for name, title in PAGES.items()]
    home = Page("index.html", "How Stable Diffusion really works", front_page(chapters, out), WEB / "build.py")
    for page in (home, *chapters, *others):
        write_page(page, chapters, others, out)
    for page in chapters:
        shutil.copy(page.source, out)
    (out / "search.json").write_text(json.dumps([part for page in (*chapters, *others) for part in sections(page)]))
    styles = [HtmlFormatter(style=style).get_style_defs(f"{scope} .highlight")
              for style, scope in (("default", ":root[data-theme=light]"), ("github-dark", ":root[data-theme=dark]"))]
    (out / "code.css").write_text("\n".join(styles))
    subprocess.run([node, "formulas.mjs", str(out.resolve())], cwd=WEB, check=True)
    if models:
        write_models(kept)
    print(f"The site is in {out}: `python -m http.server --directory {out}`, or `minisd play`, serves it.")


def front_page(chapters: list[Page], out: Path) -> str:
    shutil.copy(assets_folder() / "mini" / "samples.png", out / "samples.png")
    cards = "".join(f'<li><a href="{page.file}"><strong>{page.title}</strong><span>{question(page)}</span></a></li>'
                    for page in chapters)
    return (WEB / "front.html").read_text().replace("{{cards}}", cards)


def question(page: Page) -> str:
    """The question in italics with which a chapter begins."""
    found = re.search(r"<em>(.*?)</em>", page.body, flags=re.S)
    return found[1] if found else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "site", help="the folder to write (%(default)s)")
    parser.add_argument("--no-models", action="store_true", help="keep the models that are there")
    options = parser.parse_args()
    build(options.out, models=not options.no_models)
