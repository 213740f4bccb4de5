"""The course as a site: nothing is broken, nothing comes from elsewhere."""

import html
import json
import re
from pathlib import Path

import nbformat
import pytest

from web import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(packages, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "site"
    build.build(out, models=False)
    return out


@pytest.fixture(scope="module")
def pages(out):
    return {path.name: path.read_text() for path in out.glob("*.html")}


def test_all_chapters_and_the_other_pages_are_there(pages):
    chapters = {path.stem + ".html" for path in build.NOTEBOOKS.glob("[01]*.ipynb")}
    assert len(chapters) == 12
    assert set(pages) == chapters | {"index.html", "draw.html", "glossary.html", "teaching.html", "start.html"}
    assert all(f'href="{name}"' in pages["index.html"] for name in set(pages) - {"index.html"})


def test_no_link_is_broken(out, pages):
    ids = {name: set(re.findall(r'\sid="([^"]+)"', page)) for name, page in pages.items()}
    broken = []
    for name, page in pages.items():
        for address in re.findall(r'(?:href|src)="([^"]*)"', page):
            path, _, anchor = html.unescape(address).partition("#")
            if re.match(r"https?:|mailto:|data:", address):
                continue
            known = ids.get(path or name)
            if (path and not (out / path).exists()) or (anchor and known is not None and anchor not in known):
                broken.append((name, address))
    assert not broken


def test_nothing_is_fetched_from_elsewhere(out, pages):
    loaded = re.compile(r"""<(?:img|script|link|iframe|source)\b[^>]*?(?:src|href)=["'](https?:[^"']+)""")
    assert not {name: found for name, page in pages.items() if (found := loaded.findall(page))}
    assert not [path for path in out.rglob("*.css") if re.search(r"url\(['\"]?https?:|@import", path.read_text())]


def test_every_figure_of_the_notebooks_has_its_alternative_text(out, pages):
    for path in build.NOTEBOOKS.glob("[01]*.ipynb"):
        wanted = [output.metadata["image/png"]["alt"] for cell in nbformat.read(path, 4).cells
                  if cell.cell_type == "code" for output in cell.outputs if "image/png" in output.get("data", {})]
        images = re.findall(r"<img [^>]*pictures/[^>]*>", pages[path.stem + ".html"])
        assert [html.unescape(re.search(r'alt="([^"]*)"', image)[1]) for image in images] == wanted, path.name


def test_formulas_are_set(pages):
    for name, page in pages.items():
        text = re.sub(r"<(pre|code|script|style|annotation)\b.*?</\1>", "", page, flags=re.S)
        assert 'class="math' not in text, name
        assert not re.search(r"\$[^$<\s][^$<]*\\[a-z]+[^$<]*\$", text), name
    cells = nbformat.read(build.NOTEBOOKS / "01_noise.ipynb", 4).cells
    marked = sum(build.render(cell.source).count('class="math') for cell in cells if cell.cell_type == "markdown")
    assert pages["01_noise.html"].count('class="katex"') == marked > 20


def test_tables_keep_their_columns(chromium, serve, out):
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(0)
    page.goto(f"{serve(out)}/01_noise.html")
    narrow = page.evaluate("""() => [...document.querySelectorAll("main td")].filter((cell) =>
        cell.textContent.trim() &&
        cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent)""")
    assert not narrow
    assert page.evaluate("() => document.fonts.ready.then(() => [...document.fonts].some((font) => "
                         "font.family.includes('KaTeX') && font.status === 'loaded'))")
    page.context.close()


def test_search_finds_a_section(chromium, serve, out):
    page = chromium.new_context().new_page()
    page.set_default_timeout(0)
    page.goto(f"{serve(out)}/index.html")
    page.keyboard.press("/")
    page.keyboard.type("classifier-free guidance")
    page.wait_for_selector("#found a")
    assert any("08_guidance" in link.get_attribute("href") for link in page.locator("#found a").all())
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/*.html#*")
    page.context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(chromium, serve, out, width):
    page = chromium.new_context(viewport={"width": width, "height": 800}).new_page()
    page.set_default_timeout(0)
    address = serve(out)
    for name in ("index.html", "01_noise.html", "06_unet.html", "glossary.html"):
        page.goto(f"{address}/{name}")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, name
    page.context.close()


def test_the_theme_is_kept(chromium, serve, out):
    page = chromium.new_context(color_scheme="light").new_page()
    page.set_default_timeout(0)
    address = serve(out)
    page.goto(f"{address}/index.html")
    page.locator("#theme").click()
    page.goto(f"{address}/01_noise.html")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    page.context.close()


def test_buttons_follow_the_address_in_pyproject(monkeypatch, tmp_path):
    chapter = build.Page("08_guidance.html", "08", "", build.NOTEBOOKS / "08_guidance.ipynb")
    monkeypatch.setattr(build, "address", lambda: None)
    assert "colab" not in build.buttons(chapter)
    assert 'href="08_guidance.ipynb"' in build.buttons(chapter)
    monkeypatch.setattr(build, "address", lambda: "https://github.com/someone/course")
    colab = "colab.research.google.com/github/someone/course/blob/main/notebooks/08_guidance.ipynb"
    assert colab in build.buttons(chapter)
    assert "mybinder.org/v2/gh/someone/course/main" in build.buttons(chapter)


def test_the_lock_file_names_no_registry():
    lock = json.loads((build.WEB / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package for package in packages)
