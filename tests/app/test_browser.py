"""What visitors do, in a real browser."""

import io
import json
import re
import time

import pytest
from PIL import Image

from .conftest import Far, settled

pytest.importorskip("av", reason="videos need PyAV: pip install 'invariances[app]'")


def shown(page):
    """All pictures of the page but the gallery's, as their addresses."""
    return page.locator(".inv-row img, .inv-sum img, .inv-table img").evaluate_all(
        "all => all.map(e => e.src)"
    )


def changed(page, before):
    """Waits until the last picture is another one than that of `before`, and the page has ended."""
    last = "[...document.querySelectorAll('.inv-row img, .inv-sum img, .inv-table img')].at(-1)?.src"
    page.wait_for_function(f"(src) => {last} && {last} !== src", arg=before[-1], timeout=60_000)
    settled(page)


def until(true, seconds=30):
    """Waits for something that no page shows."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def click(page, name, **more):
    page.get_by_role("button", name=name, **more).first.click()


def pick(page, number):
    page.locator(f".st-key-tile-{number} button").first.click()


def download(page, name):
    with page.expect_download(timeout=30_000) as waiting:
        click(page, name, exact=True)
    return waiting.value.path().read_bytes()


def png(level=90, size=(50, 40)):
    file = io.BytesIO()
    Image.new("RGB", size, (level, 200 - level, 30)).save(file, "PNG")
    return file.getvalue()


def upload(page, *files):
    click(page, "Your own")
    page.locator(".st-key-upload input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    )


def test_downloads_fail_go_on_and_are_whole(visit, place):
    cache = place / "cache"
    page = visit("layers?network=shapes colour&view=pool&samples=3", wait=False)
    page.get_by_text("is not on this machine yet").wait_for(timeout=20_000)
    assert "1 file" in page.locator(".st-key-download").inner_text()
    Far.answers = "missing"
    click(page, "Download", exact=True)
    page.get_by_text("could not be fetched; check the connection").wait_for(timeout=20_000)
    Far.answers = "slow"
    click(page, "Download", exact=True)
    page.get_by_text(re.compile("File 1 of 1, far_flows: [0-9.]+ MB of [0-9.]+ MB")).wait_for(timeout=20_000)
    page.locator("[data-testid=stProgress]").wait_for(timeout=20_000)
    part = cache / "far.safetensors.part"
    until(lambda: part.exists() and part.stat().st_size >= len(Far.content) // 2)
    click(page, "Stop")
    page.locator(".st-key-stop-download").wait_for(state="detached", timeout=20_000)
    assert not (cache / "far.safetensors").exists(), "half a file has no final name"
    assert part.exists()
    Far.answers, Far.asked = "whole", []
    click(page, "Download", exact=True)
    settled(page)
    assert len(shown(page)) == 2 + 3
    assert (cache / "far.safetensors").read_bytes() == Far.content
    assert not part.exists()
    assert len(Far.asked) == 1
    assert Far.asked[0] >= len(Far.content) // 2, "it goes on where it stopped"


def test_attacks_start_resample_download_and_link(visit, place):
    page = visit()
    assert page.title() == "invariances"
    first = shown(page)
    assert len(first) == 3 + 4 + 6
    page.locator("[data-testid=stSlider]").first.wait_for()
    click(page, "Resample")
    changed(page, first)
    assert "seed=1" in page.url
    second = shown(page)
    assert second[:2] == first[:2]
    assert second[7:] != first[7:]
    assert Image.open(io.BytesIO(download(page, "Pictures"))).format == "PNG"
    numbers = json.loads(download(page, "Numbers"))
    assert len(numbers["pictures"][0]["predicted_original"]) == 3
    assert shown(page) == second, "a download changes nothing"
    pick(page, 7)
    changed(page, second)
    assert "picture=drawn-7" in page.url
    again = visit(page.url.split("/", 3)[3])
    assert shown(again) == shown(page), "a link brings the same screen to another visitor"


def test_layers_side_by_side_and_one(visit):
    page = visit("layers")
    assert page.locator(".inv-layer").count() == 3
    assert len(shown(page)) == 2 + 3 * 8
    page = visit("layers?view=pool&samples=5&temperature=0.5&seed=4")
    assert len(shown(page)) == 2 + 5
    assert page.locator(".inv-meter").count() == 3


def test_texture_bias_pairs(visit):
    page = visit("texture?samples=3&cut=pool&first=Drawn shapes · trained on texture")
    assert page.locator(".inv-head").nth(1).inner_text() == "Drawn shapes · trained on texture"
    assert len(shown(page)) == 1 + 6
    assert page.locator(".inv-meter").count() == 6


def test_mixing_toggles_pictures(visit):
    page = visit("mixing")
    assert len(shown(page)) == 3 + 3 * 4
    pick(page, 12)
    page.wait_for_function("document.querySelectorAll('.inv-table img').length == 24", timeout=30_000)
    settled(page)
    assert "pictures=drawn-12" in page.url
    again = visit(page.url.split("/", 3)[3])
    assert shown(again) == shown(page)


def long_clip(path, frames=3000):
    """A clip that takes a while."""
    import av

    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=30)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = Image.new("RGB", (64, 64), (number % 255, 90, 40))
            out.mux(video.encode(av.VideoFrame.from_image(picture)))
        out.mux(video.encode(None))
    return path


def test_video_stops_within_a_second_and_others_are_served_meanwhile(visit, tmp_path):
    page = visit("video?clip=Your+own", wait=False)
    page.locator(".st-key-own-clip input[type=file]").set_input_files(long_clip(tmp_path / "a.mp4"))
    click(page, "Translate")
    page.get_by_text(re.compile("Frame [0-9]+ of 3000")).wait_for(timeout=60_000)
    other = visit()
    begun, before = time.monotonic(), shown(other)
    click(other, "Resample")
    changed(other, before)
    assert time.monotonic() - begun < 15, "3 s on two cores of its own"
    page.get_by_text(re.compile("Frame [0-9]+ of 3000")).wait_for(timeout=20_000)
    begun = time.monotonic()
    click(page, "Stop", exact=False)
    page.get_by_text("Stopped at frame").wait_for(timeout=20_000)
    assert time.monotonic() - begun < 10, "1 s on two cores of its own"
    page.locator("video").wait_for(timeout=20_000)


def test_video_is_made_played_and_downloaded(visit):
    page = visit("video", wait=False)
    click(page, "Translate")
    page.get_by_text("96 frames at 24 frames/s").wait_for(timeout=60_000)
    settled(page)
    page.wait_for_function("document.querySelector('video')?.readyState >= 1", timeout=20_000)
    assert page.evaluate("document.querySelector('video').duration") == pytest.approx(4, abs=0.2)
    data = download(page, "Video")
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("content", [b"", b"MZ" + bytes(400), b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_bad_clips_get_one_sentence(visit, content):
    page = visit("video?clip=Your+own", wait=False)
    bad = {"name": "../../x.mp4", "mimeType": "video/mp4", "buffer": content}
    page.locator(".st-key-own-clip input[type=file]").set_input_files(bad)
    click(page, "Translate")
    page.get_by_text(re.compile("no video that can be read|holds no pictures|holds no frames")).wait_for(
        timeout=20_000
    )
    assert "Traceback" not in page.locator("body").inner_text()


def test_uploads_are_taken_and_bad_ones_told(visit):
    page = visit("mixing")
    upload(
        page,
        ("../../mine.png", png()),
        ("empty.png", b""),
        ("bad.png", b"MZ" + bytes(90)),
        ("a.svg", b"<svg/>"),
    )
    page.get_by_text("bad.png is not a picture in a known format").wait_for(timeout=20_000)
    settled(page)
    body = page.locator(".stMain").inner_text()
    assert "empty.png is empty" in body
    assert "a.svg is not a picture in a known format" in body
    assert "/tmp" not in body
    assert "Traceback" not in body
    page.wait_for_function("document.querySelectorAll('.inv-table img').length == 24", timeout=30_000)
    assert "pictures=yours-" in page.url
    other = visit("mixing?" + page.url.split("?")[1])
    assert "not offered here" in other.locator(".stMain").inner_text(), "uploads stay with their visitor"


def test_pasted_pictures_are_taken(visit):
    page = visit()
    page.evaluate(
        """async () => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 40 });
            canvas.getContext("2d").fillRect(0, 0, 20, 20);
            const blob = await new Promise((done) => canvas.toBlob(done));
            const data = new DataTransfer();
            data.items.add(new File([blob], "pasted.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }"""
    )
    page.wait_for_function("location.search.includes('picture=yours-')", timeout=20_000)
    settled(page)


def test_links_name_nothing_outside(visit, place):
    page = visit("attacks?picture=custom:../../outside.png")
    assert "not offered here" in page.locator(".stMain").inner_text()
    page = visit("attacks?picture=custom:more/a.png&network=nonsense&epsilon=9&seed=-4&layer=..%2Fx")
    assert "not offered here" not in page.locator(".stMain").inner_text()


def test_the_first_page_leads_to_each_demo(visit):
    page = visit("", wait=False)
    page.locator("[class*=st-key-card-] img").nth(4).wait_for(timeout=20_000)
    page.locator(".st-key-card-mixing").click(position={"x": 50, "y": 50})
    page.wait_for_url("**/mixing**", timeout=30_000)
    settled(page)
    assert visit("attacks").get_by_text("Page not found").count() == 0


def test_a_folder_is_watched_and_broken_files_are_named(visit, place):
    page = visit()
    page.get_by_text("custom", exact=True).click()
    page.get_by_text("Left out, because they cannot be read: broken.png").wait_for(timeout=20_000)
    page.wait_for_function("document.querySelectorAll('[class*=st-key-tile-]').length == 2", timeout=20_000)
    Image.new("RGB", (70, 70), (1, 90, 4)).save(place / "data" / "custom" / "c.png")
    pick(page, 0)
    page.wait_for_function("document.querySelectorAll('[class*=st-key-tile-]').length == 3", timeout=20_000)
    (place / "data" / "custom" / "c.png").unlink()


@pytest.mark.slow  # ten visits at once
def test_ten_visitors_keep_their_pictures_apart(visit):
    pages = [visit(f"layers?view=pool&samples=3&picture=drawn-{k}&seed={k}", wait=False) for k in range(10)]
    for page in pages:
        settled(page)
    first = [shown(page) for page in pages]
    assert len({each[0] for each in first}) == 10
    for page in pages:
        click(page, "Resample")
    for k, (page, before) in enumerate(zip(pages, first)):
        changed(page, before)
        assert f"seed={k + 1}" in page.url
        assert shown(page)[:2] == before[:2], "the picture and its reconstruction stay"
    alone = visit("layers?view=pool&samples=3&picture=drawn-6&seed=7")
    assert shown(alone) == shown(pages[6])


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("", "light"),
        ("attacks", "light"),
        ("layers", "dark"),
        ("texture", "light"),
        ("mixing", "dark"),
        ("video", "light"),
    ],
)
def test_narrow_pages_do_not_scroll_sideways(visit, path, scheme):
    page = visit(path, 400, scheme, wait=path not in ("", "video"))
    page.wait_for_function("document.querySelector('.stMain').scrollWidth <= 401", timeout=20_000)


def test_no_other_address_is_asked(server, browser):
    context, asked = browser.new_context(), []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server}/attacks")
    settled(page)
    context.close()
    assert [each for each in asked if not each.startswith((server, "data:", "blob:"))] == []
