"""`minisd play`: the drawing page and the course on this computer, or a page for drawing with a model of one's own.

    minisd play                       # the site that `make site` built, for a browser; needs no network
    minisd play --model sd15          # an app around any model; needs pip install gradio
"""

import functools
import ipaddress
from collections.abc import Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from minisd.messages import ShownPath

LOOPBACK = "127.0.0.1"
PAGE = "draw.html"  # by which a folder is known to be the site


class Files(SimpleHTTPRequestHandler):
    """The files of a folder, without a line in the terminal for each."""

    # what an operating system believes about the endings of names does not matter
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}

    def log_message(self, *_: object) -> None:
        pass


def play(model: str | None, site: str | Path | None, host: str = LOOPBACK, port: int = 8000) -> None:
    """Serve the site, or an app around `model`, until Ctrl + C.

    Raises:
        FileNotFoundError: there is no site.
        ImportError: a model was asked for, and Gradio is not installed.
        OSError: something else listens on this port.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"--port is {port}; it must be a number from 0 (any free one) to 65535")
    if not is_loopback(host):
        print(f"--host {host}: everyone whose computer can reach this one over the network can open the page and draw "
              f"on it, without a password. Without --host, only this computer can.")
    if model is not None:
        from minisd.app import launch

        launch(model, host, port)
        return
    with site_server(find_site(site), host, port) as server:
        print(f"http://{host}:{server.server_port}/{PAGE}  (Ctrl + C stops it)", flush=True)
        server.serve_forever()


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def site_server(folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the files in `folder`; port 0 takes a free one."""
    try:
        return ThreadingHTTPServer((host, port), functools.partial(Files, directory=str(folder)))
    except OSError as error:
        raise OSError(f"nothing can be served on {host}, port {port}: {error.strerror}; try another --port") from None


def find_site(given: str | Path | None) -> Path:
    """The folder of the site: the given one, or where `make site`, the handout and a release have it.

    Raises:
        FileNotFoundError: it is nowhere.
    """
    places: Sequence[Path] = [Path(given)] if given is not None else [
        Path("out/site"), Path("site"), Path(__file__).resolve().parent.parent / "out" / "site"]
    for place in places:
        if (place / PAGE).is_file():
            return place
    where = f"{ShownPath(given)} is not the site (it has no {PAGE})" if given is not None else "there is no site here"
    raise FileNotFoundError(f"{where}: `make site` in a checkout of the project builds it in out/site, and the handout "
                            "holds it as its folder `site`; name another place with --site")
