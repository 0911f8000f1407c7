"""PNG files and addresses that hold them, without torch."""

from __future__ import annotations

import base64
import io

from PIL import Image


def png(picture: Image.Image) -> bytes:
    """A PNG file's bytes."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=4)
    return file.getvalue()


def held(picture: Image.Image) -> str:
    """An address that holds the picture."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()
