"""How fast the app answers and how much memory it takes: `python benchmarks/demo_speed.py [INTERACTIONS]`.

Starts the app, measures, prints a line per number, and ends it. Needs streamlit, av, playwright and a Chromium.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright

from invariances.app.models import LABELS

ROOT = Path(__file__).parents[1]
SHAPES = f"network={quote(LABELS['shapes_shape'])}"
PHOTOS = f"network={quote(LABELS['alexnet_animals'])}"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def settled(page: Page) -> None:
    page.get_by_text("Make this again").wait_for(timeout=120_000)
    page.wait_for_function("!document.querySelector('[class*=st-key-working]')", timeout=120_000)


def resample(page: Page, seed: int) -> float:
    """Seconds from the click to new pictures."""
    last = "[...document.querySelectorAll('.inv-row img')].at(-1)?.src"
    before = page.evaluate(last)
    begun = time.monotonic()
    page.locator(".st-key-resample button").first.click()
    page.wait_for_function(f"(before) => {last} !== before", arg=before, timeout=60_000)
    return time.monotonic() - begun


def megabytes(process: int) -> float:
    """Resident memory of the server."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def processor(process: int) -> float:
    """Seconds of processor time that the server has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(interactions: int) -> None:
    port, begun = free_port(), time.monotonic()
    address = f"http://localhost:{port}"
    words = [sys.executable, "-m", "streamlit", "run", str(ROOT / "invariances" / "demo.py")]
    words += [f"--server.port={port}", "--server.headless=true"]
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with sync_playwright() as play:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            while True:
                try:
                    urllib.request.urlopen(f"{address}/_stcore/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.05)
            page = browser.new_page()
            page.goto(address)
            page.locator(".inv-title").wait_for(timeout=60_000)
            print(f"first page: {time.monotonic() - begun:.1f} s after the command")
            page.goto(f"{address}/attacks")
            opened = time.monotonic()
            page.goto(f"{address}/attacks")
            settled(page)
            print(f"first attack: {time.monotonic() - opened:.1f} s after its page was opened")
            measure(browser, page, address, server.pid, interactions)
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


def measure(browser: object, page: Page, address: str, process: int, interactions: int) -> None:
    for kind, network, layer in (("shapes", SHAPES, "pool"), ("photos", PHOTOS, "conv5")):
        begun = time.monotonic()
        page.goto(f"{address}/layers?{network}")
        settled(page)
        print(f"{kind}: all layers, first time: {time.monotonic() - begun:.1f} s")
        page.goto(f"{address}/layers?{network}&view={layer}&samples=8")
        settled(page)
        used = processor(process)
        seconds = sorted(resample(page, k) for k in range(8))
        print(
            f"{kind}: resample of 8 pictures: median {seconds[4]:.2f} s, worst {seconds[-1]:.2f} s; "
            f"processor {(processor(process) - used) / 8:.2f} s each"
        )
        page.goto(f"{address}/video?{network}")
        page.get_by_role("button", name="Translate").click()
        told = page.get_by_text(re.compile("made at [0-9]+ frames/s"))
        told.wait_for(timeout=300_000)
        print(f"{kind}: video:", re.search(r"made at (\d+) frames/s", told.inner_text())[0])
    page.goto(f"{address}/layers?{SHAPES}&view=pool&samples=8")
    settled(page)
    for k in range(interactions // 10):
        resample(page, k)
    first = megabytes(process)
    for k in range(interactions):
        resample(page, k)
    print(f"memory: {first:.0f} MB, after {interactions} resamples {megabytes(process):.0f} MB")
    for k in range(20):
        page.goto(f"{address}/mixing?network={quote(LABELS[('shapes_shape', 'shapes_texture')[k % 2]])}")
        settled(page)
    print(f"memory after 20 changes of network: {megabytes(process):.0f} MB")
    pages = [browser.new_context().new_page() for _ in range(10)]
    begun = time.monotonic()
    for k, each in enumerate(pages):
        each.goto(f"{address}/layers?{SHAPES}&view=pool&picture=drawn-{k}&seed={k}")
    for each in pages:
        settled(each)
    print(f"ten visitors at once: {time.monotonic() - begun:.1f} s until all are served")
    inputs = {each.locator(".inv-row img").first.get_attribute("src") for each in pages}
    assert len(inputs) == 10, "pictures of visitors were mixed"
    print("ten visitors see ten pictures")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
