import numpy as np
import pytest
import torch
from PIL import Image

from invariances.report.charts import chart
from invariances.report.grids import grid, save_grid
from invariances.report.html import page, paragraph, picture, save_page, table, text_table
from invariances.system.errors import UserError


def test_a_grid_shows_each_picture_in_its_place():
    levels = torch.linspace(-1, 1, 6).view(2, 3, 1, 1, 1).expand(2, 3, 3, 10, 8)
    drawn = np.asarray(grid(levels))
    found = [
        [int(drawn[3 + row * 13 + 5, 3 + column * 11 + 4, 0]) for column in range(3)] for row in range(2)
    ]
    assert found == [[0, 51, 102], [153, 204, 255]]
    assert drawn.shape == (3 + 2 * 13, 3 + 3 * 11, 3)


def test_a_flat_list_becomes_nearly_square_and_is_padded_white():
    drawn = np.asarray(grid(-torch.ones(5, 3, 4, 4)))
    assert drawn.shape == (3 + 2 * 7, 3 + 3 * 7, 3)
    assert (drawn[-5:-1, -5:-1] == 255).all()
    assert (drawn[3:7, 3:7] == 0).all()


def test_labels_take_room_and_ink():
    images = torch.ones(2, 2, 3, 32, 32)
    plain, labelled = grid(images), grid(images, ["first", "second"], ["a", "a label that is far too long"])
    assert labelled.width > plain.width
    assert labelled.height > plain.height
    assert np.asarray(labelled).min() < 100
    assert np.asarray(plain).min() == 255
    assert grid(images, scale=2).width == 3 + 2 * 67


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(3, 4, 4), {}),
        (torch.zeros(2, 1, 4, 4), {}),
        (torch.zeros(0, 3, 4, 4), {}),
        (torch.zeros(1, 2, 3, 4, 4), {"row_labels": ["a", "b"]}),
        (torch.zeros(1, 2, 3, 4, 4), {"column_labels": ["a"]}),
    ],
)
def test_what_is_no_grid_gets_a_sentence(images, labels):
    with pytest.raises(UserError):
        grid(images, **labels)


def test_save_grid_writes_a_whole_file_or_none(tmp_path):
    path = save_grid(torch.zeros(2, 3, 4, 4), tmp_path / "new" / "grid.png")
    assert Image.open(path).size == (3 + 2 * 7, 3 + 7)
    assert [each.name for each in path.parent.iterdir()] == ["grid.png"]
    with pytest.raises(UserError, match="ending"):
        save_grid(torch.zeros(2, 3, 4, 4), tmp_path / "grid.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        save_grid(torch.zeros(2, 3, 4, 4), tmp_path / "file" / "grid.png")


def test_tables():
    text = text_table(["layer", "bits"], [["a", 1.23456], ["long name", None]])
    assert text.splitlines() == [
        "| layer     | bits  |",
        "| --------- | ----- |",
        "| a         | 1.235 |",
        "| long name |       |",
    ]
    assert table(["<a>"], [[0.5]]) == (
        '<table><thead><tr><th>&lt;a&gt;</th></tr></thead><tbody><tr><td class="number">0.500</td></tr></tbody></table>'
    )


def test_a_page_stands_alone_and_escapes_text(tmp_path):
    figure = chart({"x": [0.1, None, 0.9], "y": [1.0, 0.5, 0.0]}, ["a", "b", "c"], "kept")
    pieces = [
        picture(grid(torch.zeros(1, 3, 4, 4)), "a & b", "caption"),
        picture(figure, "chart"),
        paragraph("1 < 2"),
    ]
    path = save_page(page("A <title>", {"One": pieces}), tmp_path / "page.html")
    text = path.read_text()
    assert "<h1>A &lt;title&gt;</h1>" in text
    assert "1 &lt; 2" in text
    assert 'alt="a &amp; b"' in text
    sources = [part.split('"')[0] for part in text.split('src="')[1:]]
    assert len(sources) == 2
    assert all(each.startswith("data:image/") for each in sources)
    assert "<link" not in text
    assert "<script" not in text
