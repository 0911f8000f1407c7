import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def fill():
    """Writes small pictures of noise, each another."""

    def write(folder, count=6, suffix=".png", first=0):
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(first, first + count):
            random = np.random.default_rng([k, len(folder.name), *folder.name.encode()])
            pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k:02d}{suffix}")
        return folder

    return write
