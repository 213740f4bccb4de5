"""The page that draws, in Chromium's WebAssembly, against Python on the same machine, as the README's table.

    python -m tests.benchmarks.page            # three minutes; README's table with --readme

Both draw the same picture: the mini model, 20 guided steps, one prompt and seed. The page computes on one core, so
Python is timed on one core as well as on all of them, all three in turn. The page comes from this machine, so the
download is counted in bytes and costs no time here.
"""

import argparse
import functools
import re
import shutil
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import torch
from playwright.sync_api import Browser, Page, sync_playwright

from minisd import StableDiffusion
from tests.benchmarks.__main__ import write
from tests.benchmarks.measure import fresh
from web import build

PROMPT, STEPS = "a 3d render of a red apple on a blue background", 20
DRAW = f"sd => sd.textToImage({PROMPT!r}, {{ seed: 0, steps: {STEPS} }})"
IN_PYTHON = f"""
import torch
from minisd import StableDiffusion
sd = StableDiffusion.from_pretrained("mini", device="cpu", dtype=torch.float32)
sd.text_to_image({PROMPT!r}, num_inference_steps={STEPS}, seed=0, progress=False)
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.page", description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    build.fetch_packages()
    chromium = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        build.copy_files(Path(folder))
        build.write_models(Path(folder) / "models")
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        made = table(browser, f"http://127.0.0.1:{server.server_port}/draw.html", options.turns)
        browser.close()
        server.shutdown()
    print(made)
    if options.readme:
        write(made, "page")


def table(browser: Browser, address: str, turns: int) -> str:
    visits = [first_visit(browser, address) for _ in range(turns)]
    page, (_, megabytes, _) = visits[-1]
    first, memory = (median(numbers[k] for _, numbers in visits) for k in (0, 2))
    _, (python_first, python_memory) = fresh(("", "import torch"), ("", IN_PYTHON), turns)
    pictures = {"page": [], "one": [], "all": []}
    sd, threads = StableDiffusion.from_pretrained("mini", device="cpu", dtype=torch.float32), torch.get_num_threads()
    for _ in range(turns + 1):  # in turn, as the machine may be shared
        pictures["page"].append(seconds(lambda: page.evaluate(f"async () => void await ({DRAW})(sd)")))
        for name, count in (("one", 1), ("all", threads)):
            torch.set_num_threads(count)
            pictures[name].append(seconds(lambda: sd.text_to_image(
                PROMPT, num_inference_steps=STEPS, seed=0, progress=False)))
    wasm, one, every = (median(times[1:]) for times in pictures.values())  # the first warms up
    return f"""\
| mini, {STEPS} guided steps, decoded | in the browser | Python, one core | ratio | Python, {threads} cores | ratio |
|---|---|---|---|---|---|
| a picture, warm | {wasm:.2f} s | {one:.2f} s | {wasm / one:.1f} | {every:.2f} s | {wasm / every:.1f} |
| a step, on average | {1000 * wasm / STEPS:.0f} ms | {1000 * one / STEPS:.0f} ms | {wasm / one:.1f} | \
{1000 * every / STEPS:.0f} ms | {wasm / every:.1f} |
| first picture: opened, loaded, drawn | {first:.1f} s | | | {python_first:.1f} s | {first / python_first:.1f} |
| memory, at most | {memory:,.0f} MB | | | {python_memory:,.0f} MB | {memory / python_memory:.1f} |

The first visit fetches {megabytes:.1f} MB. Measured by `python -m tests.benchmarks.page` in headless Chromium \
{browser.version} with WebAssembly, on a CPU with {torch.backends.cpu.get_cpu_capability()}; without the time of the
download.
"""


def first_visit(browser: Browser, address: str) -> tuple[Page, tuple[float, float, float]]:
    """A page with an empty cache that has drawn its first picture, and (seconds, MB fetched, MB of memory)."""
    page = browser.new_context().new_page()
    page.set_default_timeout(0)
    fetched = []
    page.on("response", lambda response: fetched.append(int(response.headers.get("content-length", 0))))
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function("window.minisd")
    page.evaluate(f"""async () => {{
        window.sd = await minisd.load("mini", {{ engine: "wasm" }});
        await ({DRAW})(sd);
    }}""")
    return page, (time.perf_counter() - start, sum(fetched) / 1e6, memory_of_renderers(browser))


def memory_of_renderers(browser: Browser) -> float:
    """MB of the largest process that shows a page, at its peak (Linux)."""
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    found = [re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one['id']}/status").read_text())
             for one in processes if one["type"] == "renderer"]
    return max(int(match[1]) for match in found) / 1024


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
