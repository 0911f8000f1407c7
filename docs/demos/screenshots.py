"""The pictures of docs/demos.md: `python docs/demos/screenshots.py http://localhost:8501`, the app running there."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
SHAPES = "network=Drawn shapes · trained on shape"
PAGES = {
    "attacks": f"attacks?{SHAPES}&epsilon=0.1&attack=PGD",
    "layers": f"layers?{SHAPES}",
    "texture": "texture",
    "mixing": f"mixing?{SHAPES}",
    "video": f"video?{SHAPES}",
}
READY = """document.querySelectorAll('[data-testid=stDownloadButton] button').length == 2
    && !document.querySelector('[data-stale=true]') && (document.querySelector('video')?.readyState ?? 4) >= 2"""
BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


def main(address: str) -> None:
    """One picture of each page."""
    with sync_playwright() as play:
        path = next(each for each in BROWSERS if Path(each).exists())
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for name, where in PAGES.items():
            page = browser.new_page(viewport={"width": 1120, "height": 900})
            page.goto(f"{address}/{where}")
            if name == "video":
                page.get_by_role("button", name="Translate").click()
            page.get_by_text("Make this again").wait_for(timeout=120_000)
            page.wait_for_function(READY, timeout=120_000)
            page.wait_for_timeout(1500)
            height = page.evaluate(
                "document.querySelector('.st-key-footer').getBoundingClientRect().bottom + 24"
            )
            page.set_viewport_size({"width": 1120, "height": int(min(height, 1500))})
            page.wait_for_timeout(500)
            page.screenshot(path=HERE / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
