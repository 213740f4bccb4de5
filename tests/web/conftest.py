"""A browser, and a server for the pages; without the one or the other, these tests are skipped and say why."""

import functools
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from web import build


class Quiet(SimpleHTTPRequestHandler):
    """Prints nothing; keeps what was asked for: method and path."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def log_message(self, *_):
        self.asked.append((self.command, self.path))


@pytest.fixture(scope="session")
def packages():
    """web/node_modules, as package-lock.json has it."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("Node.js is not installed")
    try:
        build.fetch_packages()
    except subprocess.CalledProcessError:
        pytest.skip("npm cannot fetch the packages that web/package-lock.json names")


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no Chromium: on Debian, apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def asked():
    """What all servers were asked for so far: method and path."""
    return Quiet.asked


@pytest.fixture(scope="module")
def serve():
    """A function from a folder to the address at which it is served."""
    servers = []

    def start(folder):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
