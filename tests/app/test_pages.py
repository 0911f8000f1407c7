"""The pages' logic, without a browser."""

import threading
import time

import numpy as np
import pytest
import torch

from invariances.app import figures, gallery, pictures
from invariances.app.compute import Turns
from invariances.app.frame import public
from invariances.system.errors import UserError

testing = pytest.importorskip("streamlit.testing.v1")


@pytest.fixture
def app(script, place, monkeypatch):
    """A visit to the page of attacks."""
    from invariances.zoo import registry

    monkeypatch.chdir(place)
    monkeypatch.setattr(registry, "registry", registry.registry)
    return testing.AppTest.from_file(str(script.with_name("attacks.py")), default_timeout=60)


def results(app):
    return [each.proto.body for each in app.get("html") if "<img" in each.proto.body]


def test_reruns_change_nothing_and_a_seed_does(app):
    app.run()
    assert not app.exception
    assert not app.error
    first = results(app)
    assert len(first) == 3
    app.run()
    assert results(app) == first
    app.number_input(key="seed").set_value(3).run()
    assert results(app)[0] == first[0]
    assert results(app)[2] != first[2]
    app.number_input(key="seed").set_value(0).run()
    assert results(app) == first


def test_a_target_and_more_samples(app):
    app.run()
    app.selectbox(key="target").select("heart")
    app.slider(key="samples").set_value(5).run()
    assert not app.exception
    assert results(app)[2].count("<img") == 10


def test_a_link_shows_the_place_that_its_picture_comes_from(app):
    app.query_params["picture"] = "custom:more/a.png"
    app.run()
    assert app.session_state["source-False"] == "custom"


def test_problems_of_several_uploads_are_one_box(app, monkeypatch):
    monkeypatch.setattr(gallery, "take", lambda files: ["a.png is empty.", "b*c*.png is empty."])
    app.run()
    assert [each.value for each in app.warning] == ["a.png is empty.  \nb\\*c\\*.png is empty."]


def test_all_new_uploads_are_mixed(app, script, monkeypatch):
    import streamlit as st

    def take(files):
        if "yours" not in st.session_state:
            st.session_state["yours"] = {
                f"yours-{k}": (f"{k}", np.full((256, 256, 3), k, np.uint8)) for k in (1, 2)
            }
            st.session_state["newest"] = ["yours-1", "yours-2"]
        return []

    monkeypatch.setattr(gallery, "take", take)
    page = script.with_name("mixing_page.py")
    page.write_text(script.with_name("attacks.py").read_text().replace("app.attacks", "app.mixing"))
    app = testing.AppTest.from_file(str(page), default_timeout=60).run()
    assert not app.exception
    assert app.session_state["shown"][-2:] == ["yours-1", "yours-2"]
    assert app.session_state["source-False"] == "Yours"


def test_only_offered_pictures_are_found(place, monkeypatch):
    monkeypatch.chdir(place)
    assert pictures.find("custom:more/a.png").label == "a"
    assert pictures.find("drawn-3") is not None
    for name in (
        "custom:../../outside.png",
        "custom:/etc/hostname",
        "../outside.png",
        "drawn-99",
        "custom:broken.png",
    ):
        assert pictures.find(name) is None
    assert pictures.folders() == ["custom"]
    assert pictures.find("custom:more/a.png").load(32).shape == (3, 32, 32)


@pytest.mark.parametrize("content", [b"", b"MZ" + bytes(80), b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_bad_uploads_leave_no_file(content, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError):
        gallery.read_square(content)
    assert list(tmp_path.iterdir()) == []


def test_huge_pictures_are_refused_and_small_ones_squared(tmp_path):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")
    with pytest.raises(UserError, match=r"too large \(200,000,000 pixels\)"):
        gallery.read_square(file.getvalue())
    file = io.BytesIO()
    Image.new("RGB", (90, 40), (9, 9, 9)).save(file, "PNG")
    assert np.array_equal(gallery.read_square(file.getvalue()), np.full((256, 256, 3), 9, np.uint8))


def test_names_of_files_are_no_markdown():
    assert figures.plain("[a](b) *c* :red[d] $e$") == r"\[a\]\(b\) \*c\* \:red\[d\] \$e\$"


def test_errors_name_no_place_on_this_machine():
    told = public(
        UserError("image '/home/someone/data/custom/a.png' cannot be read; see https://example.org/a/b")
    )
    assert told == "Image 'a.png' cannot be read; see https://example.org/a/b."


def test_turns_are_given_in_the_order_of_asking():
    turns, order = Turns(), []

    def ask(number):
        with turns.turn():
            order.append(number)
            time.sleep(0.01)

    with turns.turn():
        threads = []
        for number in range(6):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            time.sleep(0.02)
    for each in threads:
        each.join()
    assert order == list(range(6))


def test_names_from_outside_are_no_markup():
    shown = figures.figure(torch.zeros(3, 8, 8), "<script>alert(1)</script>")
    assert "<script" not in shown
    assert "&lt;script" in shown


def test_clips_that_are_too_long_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="videos need PyAV: pip install 'invariances[app]'")
    from invariances.app import video
    from invariances.data.clips import ClipWriter, DrawnClip

    source = DrawnClip(frames=12, size=32, seconds=3)
    with ClipWriter(tmp_path / "a.mp4", source, 32) as writer:
        for frame in source:
            writer.write(frame[None])
    content = (tmp_path / "a.mp4").read_bytes()
    with video._opened(("a.mp4", content), 32) as clip:
        assert len(list(clip)) == 12
    monkeypatch.setattr(video, "LONGEST", 2)
    with pytest.raises(UserError, match="lasts 3 s"):
        video._opened(("a.mp4", content), 32)
