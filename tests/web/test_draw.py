"""The page that draws, in a real browser: the same ids, noise and pictures as in Python, and a page that behaves."""

import json
import random
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import StableDiffusion, export
from minisd.emoji.world import tokenizer_corpus
from minisd.export import parts_of, to_onnx
from minisd.schedulers import SAMPLERS
from web import build

PROMPTS = ["a 3d render of a red apple on a blue background", "a flat icon of a cat face", "", "it's a robot, on grey",
           "a cartoon of a pizza on a yellow background", "a sticker of a rocket", "two owls", "a sunflower at the top"]
ODD = ["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "it's", "I'LL", "É", "e\u0301", "İ", "ΑΣ", "🐱", "👩‍👩‍👧",
       "\x1c", "\x85", "\ufeff", "\u00ad", "  ", "\t\n", "½", "ﬁ", "१२", "Ǆ", "ẞ", "</w>", "!"]


@pytest.fixture(scope="module")
def models():
    return {name: StableDiffusion.from_pretrained(name, "cpu") for name in ("mini", "mini-inpaint")}


@pytest.fixture(scope="module")
def site(packages, chromium, models, tmp_path_factory, serve):
    """The address of a site that holds the drawing page and the models only."""
    out = tmp_path_factory.mktemp("site")
    build.copy_files(out)
    mini, inpaint = out / "models" / "mini", out / "models" / "mini-inpaint"
    to_onnx(models["mini"], mini, "fp16", attention=True, progress=False)
    for name in ("text_encoder", "vae"):  # both models have the same: half a minute less
        one, other = (getattr(sd, name).state_dict() for sd in models.values())
        assert all(torch.equal(one[key], other[key]) for key in one | other)
    shutil.copytree(mini, inpaint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "parts_of", lambda *args: [part for part in parts_of(*args) if part.name == "unet"])
        to_onnx(models["mini-inpaint"], inpaint, "fp16", progress=False)
    build.write_words(mini)
    return serve(out)


@pytest.fixture
def context(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(0)  # however slow the machine, a test is not red for that
    yield context
    context.close()


@pytest.fixture
def page(site, context):
    page = context.new_page()
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(f"{site}/draw.html")
    return page


@pytest.fixture(scope="module")
def drawing(site, chromium):
    """A page on which the models are loaded, as window.sd and window.inpaint, for tests that only compute."""
    page = chromium.new_context().new_page()
    page.set_default_timeout(0)
    page.goto(f"{site}/draw.html")
    page.evaluate("""async () => {
        window.mini = await minisd.load("mini", { engine: "wasm" });
        window.miniInpaint = await minisd.load("mini-inpaint", { engine: "wasm" });
        window.toImage = ([data, width, height]) => ({ data: Uint8ClampedArray.from(data), width, height });
        window.told = ({ pixels, width, height }) => [Array.from(pixels), width, height];
    }""")
    yield page
    page.context.close()


def bytes_of(image: Image.Image) -> list:
    return [list(image.convert("RGBA").tobytes()), image.width, image.height]


def difference(told: list, image: Image.Image) -> int:
    pixels, width, height = told
    assert image.size == (width, height)
    drawn = np.array(pixels, dtype=int).reshape(height, width, 4)[..., :3]
    return np.abs(drawn - np.asarray(image).astype(int)).max()


# --- equal to Python ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "sampler", "steps", "guidance"), [
    (prompt, sampler, 20 if sampler == "ddim" else 6, guidance)
    for prompt, sampler, guidance in zip([*PROMPTS, "a fox"], SAMPLERS, [3, 7.5, 3, 1, 4, 7.5, 3, 2, 1], strict=True)])
def test_text_to_image(drawing, models, prompt, sampler, steps, guidance):
    options = {"seed": 5, "steps": steps, "guidance": guidance, "scheduler": sampler, "negativePrompt": "a dog"}
    told = drawing.evaluate("async ([prompt, options]) => told(await mini.textToImage(prompt, options))",
                            [prompt, options])
    sd = models["mini"]
    before = sd.scheduler
    sd.set_scheduler(sampler)
    image, = sd.text_to_image(prompt, "a dog", steps, guidance, seed=5, progress=False)
    sd.scheduler = before
    assert difference(told, image) <= 1


@pytest.fixture(scope="module")
def picture(models):
    side = models["mini"].unet.config.sample_size * models["mini"].vae.downscale
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.slow
def test_image_to_image(drawing, models, picture):
    told = drawing.evaluate("""async ([prompt, image]) => told(await mini.imageToImage(prompt, toImage(image),
                            { seed: 1, steps: 10, strength: 0.65, guidance: 3 }))""", [PROMPTS[0], bytes_of(picture)])
    image, = models["mini"].image_to_image(PROMPTS[0], picture, 0.65, num_inference_steps=10, guidance_scale=3, seed=1,
                                           progress=False)
    assert difference(told, image) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "window"), [("mini", "mini"), ("mini-inpaint", "miniInpaint")])
@pytest.mark.parametrize("strength", [1, 0.7])
def test_inpaint(drawing, models, picture, name, window, strength):
    mask = Image.fromarray(np.tri(picture.width, dtype=np.uint8) * 255)
    told = drawing.evaluate(f"""async ([prompt, image, mask, strength]) => told(await {window}.inpaint(prompt,
                            toImage(image), toImage(mask), {{ seed: 2, steps: 6, strength, guidance: 3 }}))""",
                            [PROMPTS[1], bytes_of(picture), bytes_of(mask), strength])
    image, = models[name].inpaint(PROMPTS[1], picture, mask, strength, num_inference_steps=6, guidance_scale=3, seed=2,
                                  progress=False)
    assert difference(told, image) <= 1


def test_ids(drawing, models):
    rng = random.Random(0)
    letters = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
    odd = ["".join(rng.choice(ODD if rng.random() < 0.3 else letters) for _ in range(rng.randint(0, 20)))
           for _ in range(2000)]
    texts = tokenizer_corpus(0)[:5000] + odd
    assert len(texts) == 7000
    found = drawing.evaluate("texts => texts.map((text) => mini.tokenizer.encode(text))", texts)
    wrong = [(text, ids) for text, ids in zip(texts, found) if ids != models["mini"].tokenizer.encode(text)]
    assert not wrong, wrong[:3]


def test_noise(drawing):
    seeds = [0, 1, 2, 42, 12345, 987654321, 2**31, 2**32 - 1, 2**40 + 7, 2**53 - 1]
    shapes = [[1], [5], [15], [16], [17], [3, 11], [1, 4, 8, 8], [1, 4, 16, 16]]
    found = drawing.evaluate("""([seeds, shapes]) => seeds.map((seed) => shapes.map((shape) =>
                             Array.from(mini.noise(seed, shape))))""", [seeds, shapes])
    for seed, rows in zip(seeds, found):
        for shape, row in zip(shapes, rows):
            expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).flatten()
            torch.testing.assert_close(torch.tensor(row), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_attention_maps(drawing, models):
    found = drawing.evaluate("""async (prompt) => { let last; await mini.textToImage(prompt, { seed: 0, steps: 1,
        guidance: 1, attention: true, onStep: (step) => { last = step; } });
        return last.attention.map(({ layer, positions, tokens, weights }) =>
            [layer, positions, tokens, Array.from(weights)]); }""", PROMPTS[0])
    sd = models["mini"]
    with sd.unet.record_attention() as maps:
        sd.text_to_image(PROMPTS[0], num_inference_steps=1, guidance_scale=1, seed=0, progress=False)
    assert [layer for layer, *_ in found] == list(maps)
    for layer, positions, tokens, weights in found:
        expected = maps[layer][0].mean(dim=1)[0]
        torch.testing.assert_close(torch.tensor(weights).view(positions, tokens), expected, rtol=1e-4, atol=1e-5)


# --- a page that behaves --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reader_draws_with_the_keyboard(page, site, models, asked):
    page.locator("#prompt").fill(PROMPTS[0])
    page.locator("[name=steps]").fill("4")
    page.locator("[name=seed]").fill("9")
    page.locator("#prompt").press("Control+Enter")
    page.wait_for_selector("#after:not([hidden])")
    assert "seed 9" in page.inner_text("#status")
    told = page.evaluate("""() => { const canvas = document.querySelector(".picture"), { width, height } = canvas;
        return [Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data), width, height]; }""")
    image, = models["mini"].text_to_image(PROMPTS[0], num_inference_steps=4, seed=9, progress=False)
    assert difference(told, image) <= 1
    assert page.locator("#strip canvas").count() == 4
    assert any(url.endswith(".onnx") for url in page.requested)  # the worker's requests are among them
    assert all(url.startswith(site) for url in page.requested), page.requested  # nothing is sent anywhere

    # the address opens exactly this picture
    def fetched():
        return [path for method, path in asked if method == "GET" and path.endswith(".onnx")]

    before = fetched()
    assert len(before) >= 4
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector("#after:not([hidden])")
    look = "() => document.querySelector('.picture').toDataURL()"
    assert again.evaluate(look) == page.evaluate(look)
    # and the second visit took the model from the browser's cache
    assert fetched() == before

    # each word lays its attention over the picture; the steps can be scrubbed
    heat = "() => document.querySelector('.heat').toDataURL()"
    before = page.evaluate(heat)
    page.locator("#words button", has_text="apple").press("Enter")
    page.locator("#scrub").fill("2")
    assert page.evaluate(heat) != before
    assert page.locator("#strip .now").count() == 1


@pytest.mark.slow
def test_a_drawing_can_be_stopped(page):
    page.locator("[name=steps]").fill("50")
    page.locator("#draw").click()
    page.wait_for_function("() => /^Step [2-9]/.test(document.querySelector('#status').textContent)")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelector('#status').textContent === 'Stopped.'")
    assert page.locator("#draw").is_enabled()


@pytest.mark.slow
def test_two_drawings_side_by_side(page):
    page.locator("[name=steps]").fill("2")
    page.locator("[name=compare]").select_option("guidance")
    page.locator("[name=guidance2]").fill("1")
    page.locator("#draw").click()
    page.wait_for_selector("#after:not([hidden])")
    assert page.locator("figure").count() == 2
    assert page.locator("figcaption").nth(1).inner_text() == "guidance 1"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sketch", "inpaint"])
def test_a_sketch_and_a_hole(page, mode):
    page.locator(f"[name=mode][value={mode}]").check(force=True)
    if mode == "inpaint":
        page.locator("#draw").click()
        assert "Brush over" in page.inner_text("#problem")
    page.locator("#board").scroll_into_view_if_needed()
    box = page.locator("#board").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 160, steps=4)
    page.mouse.up()
    page.locator("[name=steps]").fill("3")
    page.locator("#draw").click()
    page.wait_for_selector("#after:not([hidden])")
    assert page.locator("figure").count() == 1


def test_every_control_has_a_name(page):
    nameless = page.evaluate("""() =>
        [...document.querySelectorAll("input, select, textarea, button, canvas[role=img]")]
        .filter((one) => one.checkVisibility() && !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
        .map((one) => one.outerHTML)""")
    assert not nameless
    assert page.locator("#status[aria-live]").count() == 1


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_sticks_out(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_unknown_words_get_a_gentle_word(page):
    page.locator("#prompt").fill("a skyscraper on a blue background")
    page.wait_for_function("() => document.querySelector('#unknown').textContent")
    assert "“skyscraper”" in page.inner_text("#unknown")
    page.locator("#prompt").fill("a red apple on a blue background")
    assert page.inner_text("#unknown") == ""


def test_a_browser_without_simd_gets_a_sentence(site, context):
    page = context.new_page()
    page.add_init_script("WebAssembly.validate = () => false;")
    page.goto(f"{site}/draw.html")
    assert "lacks WebAssembly with SIMD" in page.inner_text("#problem")
    assert page.locator("#draw").is_disabled()


def test_a_browser_without_memory_gets_a_sentence(page):
    page.route("**/pipeline.js", lambda route: route.fulfill(
        content_type="text/javascript", body="export class StableDiffusion { static async load() { "
        "throw new RangeError('WebAssembly.Memory(): could not allocate memory'); } }"))
    page.locator("#draw").click()
    page.wait_for_selector("#problem:not([hidden])")
    assert "not enough memory" in page.inner_text("#problem")


def test_a_page_that_is_opened_as_a_file_gets_a_sentence(context):
    page = context.new_page()
    page.goto((build.WEB / "draw.html").as_uri())
    assert "minisd play" in page.inner_text("#problem")


def test_webgpu_that_fails_gives_way_to_wasm(site, context):
    """Workers cannot be patched from a page, so the driver's refusal is written into the engine."""
    context.route("**/ort.webgpu.min.mjs", lambda route: route.fulfill(
        content_type="text/javascript", body="export const env = { wasm: {} }; export const InferenceSession = "
        "{ create() { throw new Error('no adapter'); } }; export class Tensor {}"))
    context.route("**/worker.js", lambda route: route.fulfill(
        content_type="text/javascript", body="Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: "
        "async () => ({}) } });\n" + (build.WEB / "worker.js").read_text()))
    page = context.new_page()
    page.goto(f"{site}/draw.html")
    assert page.evaluate("() => minisd.load('mini').then((sd) => sd.engine)") == "wasm"


def test_a_model_that_is_not_there_is_named(page):
    message = page.evaluate("() => minisd.load('no-such-model').catch((error) => error.message)")
    assert "no-such-model" in message
    assert "404" in message


def test_words_are_the_worlds(tmp_path):
    build.write_words(tmp_path)
    words = json.loads((tmp_path / "words.json").read_text())
    assert len(words["prompts"]) == 60
    assert {"pizza", "background", "sticker"} <= set(words["known"])
    assert "skyscraper" not in words["known"]
