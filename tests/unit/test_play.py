"""`minisd play`: the site from a folder, and the app around a model."""

import sys
import threading
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import StableDiffusion, app, play
from minisd.app import HOLE, OWN, PICTURE, WORDS, Stopped, Studio, read_notes
from minisd.cli import main


@pytest.fixture
def site(tmp_path) -> Path:
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (folder / "draw.html").write_text("<h1>Draw</h1>")
    (folder / "engine.mjs").write_text("export {};")
    (folder / "engine.wasm").write_bytes(b"\0asm")
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory, and a package without a checkout around it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "__file__", str(tmp_path / "lib" / "minisd" / "play.py"))
    return tmp_path


def test_the_site_is_served_on_this_computer(site):
    with play.site_server(site, "127.0.0.1", 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, kind in (("draw.html", "text/html"), ("engine.mjs", "text/javascript"),
                           ("engine.wasm", "application/wasm")):
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/{name}") as answer:
                assert answer.headers["content-type"] == kind
                assert answer.read() == (site / name).read_bytes()
        server.shutdown()


def test_the_site_is_found_where_it_is_built_and_where_the_handout_has_it(site, elsewhere):
    assert play.find_site(site) == site
    with pytest.raises(FileNotFoundError, match=r"there is no site here: `make site` in a checkout .* --site"):
        play.find_site(None)
    with pytest.raises(FileNotFoundError, match=r"nothing is not the site \(it has no draw.html\)"):
        play.find_site("nothing")
    site.rename(elsewhere / "site")
    assert play.find_site(None) == Path("site")
    (elsewhere / "out").mkdir()
    (elsewhere / "site").rename(elsewhere / "out" / "site")
    assert play.find_site(None) == Path("out/site")


def test_the_command(site, elsewhere, monkeypatch, capsys):
    assert main(["play"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["play", "--site", str(site), "--port", "70000"]) == 2
    assert "--port is 70000" in capsys.readouterr().err
    assert main(["play", "--site", str(site), "--model", "mini"]) == 2
    assert "exclude each other" in capsys.readouterr().err

    def interrupted(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(play.ThreadingHTTPServer, "serve_forever", interrupted)
    assert main(["play", "--site", str(site), "--port", "0"]) == 130
    told = capsys.readouterr().out
    assert told.startswith("http://127.0.0.1:")
    assert "/draw.html" in told
    assert main(["play", "--site", str(site), "--port", "0", "--host", "0.0.0.0"]) == 130
    assert "everyone whose computer can reach this one" in capsys.readouterr().out


def test_a_port_in_use_is_named(site, capsys):
    with play.site_server(site, "127.0.0.1", 0) as server:
        assert main(["play", "--site", str(site), "--port", str(server.server_port)]) == 2
        assert f"port {server.server_port}: Address already in use; try another --port" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("::1", True),
                                             ("0.0.0.0", False), ("192.168.1.5", False), ("example.org", False)])
def test_which_addresses_are_this_computer(host, local):
    assert play.is_loopback(host) is local


def test_without_gradio_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["play", "--model", "mini"]) == 2
    assert capsys.readouterr().err == "minisd: the app needs gradio: pip install gradio\n"


# --- the app --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(tiny, tmp_path_factory):
    return Studio(StableDiffusion.from_pretrained(tiny["sd1"], "cpu"), "tiny", tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def canvas():
    """What the editor holds: a picture of another shape, and a brushed corner."""
    rng = np.random.default_rng(0)
    layer = np.zeros((80, 100, 4), dtype=np.uint8)
    layer[:40, :50] = 255
    return {"background": Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)),
            "layers": [Image.fromarray(layer)]}


def test_words(studio):
    done = []
    file, strip, seed = studio.draw(WORDS, "an apple", "a cat", None, 1, 3, 2.5, 7, "euler", progress=done.append)
    wanted = StableDiffusion.text_to_image  # the same call from Python
    studio.sd.set_scheduler("euler")
    image, = wanted(studio.sd, "an apple", "a cat", 3, 2.5, seed=7, progress=False)
    assert np.array_equal(Image.open(file), image)
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert seed == 7
    assert len(strip) == 3
    assert read_notes(file) == {"prompt": "an apple", "negative": "a cat", "steps": 3, "guidance": 2.5, "seed": "7",
                                "strength": 0.8, "sampler": "euler"}


def test_a_strip_of_many_steps_shows_a_few_and_the_last(studio, monkeypatch):
    shown = []
    monkeypatch.setattr(studio.sd, "decode_latents", lambda x0: shown.append(int(x0)) or np.zeros(1))
    monkeypatch.setattr(app, "tensor_to_images", lambda pixels: [None])
    assert len(studio.strip([torch.tensor(i) for i in range(20)])) == app.STRIP
    assert shown == sorted(set(shown))
    assert shown[-1] == 19


def test_a_picture_and_a_hole(studio, canvas, tiny):
    picture, mask = studio.read(canvas)
    assert picture.size == mask.size == (64, 64)
    assert mask.getpixel((0, 0)) == 255
    assert mask.getpixel((63, 63)) == 0
    for job, wanted in ((PICTURE, studio.sd.image_to_image("an apple", picture, 0.5, num_inference_steps=4,
                                                            guidance_scale=2, seed=1, progress=False)),
                        (HOLE, studio.sd.inpaint("an apple", picture, mask, 0.5, num_inference_steps=4,
                                                 guidance_scale=2, seed=1, progress=False))):
        studio.own = studio.sd.scheduler
        file, *_ = studio.draw(job, "an apple", "", canvas, 0.5, 4, 2, 1, OWN)
        assert np.array_equal(Image.open(file), wanted[0])
        assert read_notes(file)["strength"] == 0.5
    assert Studio(StableDiffusion.from_pretrained(tiny["sd1-inpaint"], "cpu"), "hole", ".").jobs == [HOLE]


def test_what_is_missing_is_said(studio, canvas, tmp_path):
    with pytest.raises(ValueError, match="Open a picture first"):
        studio.draw(PICTURE, "", "", None, 0.5, 4, 2, 1, OWN)
    with pytest.raises(ValueError, match="Brush over a part"):
        studio.draw(HOLE, "", "", canvas | {"layers": []}, 0.5, 4, 2, 1, OWN)
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="carries no settings"):
        read_notes(tmp_path / "plain.png")


def test_a_drawing_can_be_stopped(studio):
    def after_two(done):
        if done[0] == 2:
            studio.stop.set()

    with pytest.raises(Stopped):
        studio.draw(WORDS, "", "", None, 1, 10, 1, 0, OWN, progress=after_two)


@pytest.mark.slow
def test_the_page(studio, tmp_path):
    """Gradio's page, spoken to over HTTP: it draws, one at a time, and fetches nothing from elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("gradio")
        from gradio_client import Client

        page, options = app.make_app(studio)
        jobs = [one for one in page.fns.values() if one.fn and one.fn.__name__ == "draw"]
        assert [one.concurrency_limit for one in jobs] == [1]
        _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        try:
            with urllib.request.urlopen(address) as answer:
                assert b"fonts.googleapis.com" not in answer.read()
            client = Client(address, verbose=False, download_files=str(tmp_path))
            file, strip, state = client.predict(WORDS, "an apple", "", None, 1, 2, 1, " 3", OWN, api_name="/draw")
            other, *_ = client.predict(WORDS, "an apple", "", None, 1, 2, 1, "", OWN, api_name="/draw")
            with pytest.raises(Exception, match="The seed is '-1'; it must be a whole number, or empty"):
                client.predict(WORDS, "an apple", "", None, 1, 2, 1, "-1", OWN, api_name="/draw")
        finally:
            page.close()
    assert state == "Seed 3."
    assert len(strip) == 2
    assert (read_notes(file)["prompt"], read_notes(file)["seed"]) == ("an apple", "3")
    assert read_notes(other)["seed"] not in ("", "0", "3")
