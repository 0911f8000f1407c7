"""The app on small networks with untrained flows, served in a process of its own, and a browser.

Two of them ship here, one is far: a server on this machine has its flows.
"""

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.representation.representation import Representation
from invariances.zoo.interpreters import save_flows

pytest.importorskip("streamlit", reason="the app needs streamlit: pip install 'invariances[app]'")

ROOT = Path(__file__).parents[2]
LAYERS = ["stage3", "pool", "logits"]
NETWORKS = ("shapes_shape", "shapes_texture")
FAR = "shapes_colour"

START = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from invariances.zoo import registry
entries = {{name: each for name, each in registry.registry().items() if each["kind"] != "interpreter"}}
for network in {networks!r}:
    entries[network + "_flows"] = {{
        "kind": "interpreter", "title": "small", "network": network, "layers": {layers!r},
        "autoencoder": "shapes_vae", "package": str(Path({folder!r}) / (network + ".safetensors")),
    }}
entries["far_flows"] = {{
    "kind": "interpreter", "title": "far", "network": {far!r}, "layers": {layers!r},
    "autoencoder": "shapes_vae", "address": "http://127.0.0.1:{port}/far", "file": "far.safetensors", "size": {size},
}}
registry.registry = lambda: entries
"""


class Far(http.server.BaseHTTPRequestHandler):
    """Has one file; is told by the test how to answer."""

    content, answers, asked = b"", "missing", []

    def do_GET(self):
        kind = type(self)
        begin = int(self.headers.get("Range", "bytes=0-").split("=")[1].rstrip("-"))
        kind.asked.append(begin)
        if kind.answers == "missing":
            self.send_error(404)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(kind.content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(kind.content) - 1}/{len(kind.content)}")
        self.end_headers()
        half = max(begin, len(kind.content) // 2)
        try:
            self.wfile.write(kind.content[begin:half])
            while kind.answers == "slow":
                self.wfile.write(kind.content[half : half + 1])
                self.wfile.flush()
                half += 1
                time.sleep(0.05)
            self.wfile.write(kind.content[half:])
        except OSError:  # the other side has had enough
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def far():
    """The server that has what is not here."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Far) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture(scope="session")
def script(tmp_path_factory, far):
    """A script that runs the app on small flows."""
    folder = tmp_path_factory.mktemp("flows")
    for network in (*NETWORKS, FAR):
        flows = {}
        for layer in LAYERS:
            torch.manual_seed(0)
            shape = Representation(network, layer).shape
            config = FlowConfig(blocks=2, width=16, depth=1, embedder=EmbedderConfig("regression", width=4))
            flows[layer] = ConditionalFlow(config, (64,), shape).eval(), {}
        save_flows(folder / f"{network}.safetensors", flows)
    Far.content = (folder / f"{FAR}.safetensors").read_bytes()
    head = START.format(
        root=str(ROOT), networks=NETWORKS, layers=LAYERS, folder=str(folder), far=FAR,
        port=far.server_address[1], size=len(Far.content),
    )  # fmt: skip
    path = folder / "app.py"
    path.write_text(f"{head}\nfrom invariances.app.frame import main\nmain()\n")
    path.with_name("attacks.py").write_text(f"{head}\nfrom invariances.app.attacks import page\npage()\n")
    return path


def chromium():
    """The browser's path, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """The folder that the app is started in, with pictures in data/custom, two levels deep, one of them broken."""
    from PIL import Image

    from invariances.data.images import to_uint8
    from invariances.data.shapes import Shapes

    place = tmp_path_factory.mktemp("place")
    inner = place / "data" / "custom" / "more"
    inner.mkdir(parents=True)
    arrays = to_uint8(Shapes(3, seed=9, size=96).images(range(3))).numpy()
    Image.fromarray(arrays[0]).save(inner.parent / "b.png")
    Image.fromarray(arrays[1]).save(inner / "a.png")
    (inner.parent / "broken.png").write_bytes(b"no picture")
    Image.fromarray(arrays[2]).save(place / "outside.png")
    return place


@pytest.fixture(scope="session")
def server(script, place):
    """The app's address."""
    from invariances.cli.demo import SETTINGS

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {**SETTINGS, "server.port": port, "server.address": "localhost", "server.headless": "true"}
    words = [f"--{name}={value}" for name, value in given.items()]
    log = (place / "log.txt").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script), *words],
        cwd=place,
        env={**os.environ, "XDG_CACHE_HOME": str(place / "cache"), "PYTHONPATH": str(ROOT), "no_proxy": "*"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://localhost:{port}"
    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the app did not start: " + (place / "log.txt").read_text())
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    sync = pytest.importorskip(
        "playwright.sync_api", reason="browser tests need playwright: pip install playwright"
    )
    path = chromium()
    if path is None:
        told = "browser tests need a Chromium: apt-get install chromium"
        if os.environ.get("INVARIANCES_BROWSER_TESTS") == "required":
            pytest.fail(told)
        pytest.skip(told)
    with sync.sync_playwright() as play:
        made = play.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield made
        made.close()


@pytest.fixture
def visit(server, browser):
    """Opens a page of the app in a visit of its own, and waits until it has computed."""
    contexts = []

    def go(path="attacks", width=1280, scheme="light", wait=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{server}/{path}")
        page.locator(".inv-title").wait_for(timeout=60_000)
        if wait:
            settled(page)
        return page

    yield go
    for context in contexts:
        context.close()


def settled(page):
    """Waits for the page's end, with nothing running and no error box."""
    page.get_by_text("Make this again").wait_for(timeout=60_000)
    page.wait_for_function("!document.querySelector('[class*=st-key-working]')", timeout=60_000)
    page.wait_for_timeout(250)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.get_by_text("This went wrong on our side").count() == 0
