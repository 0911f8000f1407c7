import re
from types import SimpleNamespace

import torch

from invariances.evaluation.information import information
from invariances.evaluation.tables import Table
from invariances.recipes.compare import differences
from invariances.recipes.profile import summary
from invariances.report.compare_page import difference_charts
from invariances.report.marks import ORANGE, dots
from invariances.report.profile_page import charts, footnote, number_table


def told(bits):
    """The summary of layers that hold so many bits, give or take one between pictures."""
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    tables = {
        layer: {"information": information(torch.log(torch.tensor(2.0)) * (each + noise), 0 * noise)}
        for layer, each in bits.items()
    }
    return summary({layer: SimpleNamespace(tables=each) for layer, each in tables.items()}, list(bits), 0)


def test_information_below_zero_is_called_what_it_is():
    found = told({"pool": 3.0, "logits": -1.0})
    layers = found["layers"]
    assert "information_warning" not in layers["pool"]
    assert "learned too little" in layers["logits"]["information_warning"]
    text = charts(layers, ["pool", "logits"], found["violations"])
    assert "below 0 at logits" in text
    assert text.count(f'fill="{ORANGE}"') == 1
    assert "learned too little" in number_table(layers, ["pool", "logits"])
    fine = told({"pool": 3.0, "logits": 2.0})
    text = charts(fine["layers"], ["pool", "logits"], fine["violations"])
    assert "below 0 at" not in text
    assert ORANGE not in text


def test_information_that_grows_is_marked_where_it_does():
    found = told({"pool": 1.0, "logits": 2.0})
    text = charts(found["layers"], ["pool", "logits"], found["violations"])
    assert "rise at logits" in text
    assert "can only fall from layer to layer" in text
    assert text.count(f'fill="{ORANGE}"') == 1


def test_a_difference_of_information_below_zero_is_never_sure():
    bits = {each: {"information": Table(torch.full((50, 1), each).double())} for each in (3.0, 1.0, -1.0)}
    assert differences(bits[3.0], bits[1.0], 0)["information"]["sure"]
    assert not differences(bits[3.0], bits[-1.0], 0)["information"]["sure"]


def test_a_difference_of_information_below_zero_says_nothing():
    one = {"one": 3.0, "other": -1.0, "difference": -4.0, "difference_interval": [-4.1, -3.9], "sure": True}
    fine = {**one, "other": 2.0}
    assert "can only fall" not in difference_charts({"logits": {"information": one}}, "b"), (
        "differences may rise"
    )
    assert "below 0 in one" in difference_charts({"logits": {"information": one}}, "b")
    assert "below 0 in one" not in difference_charts({"logits": {"information": fine}}, "b")


def test_ticks_are_round_with_zero_among_them():
    text = dots(["a"], [-1.3], [None], (-1.85, 16.0))
    assert [f">{each}<" in text for each in (0, 5, 10, 15, 16)] == [True, True, True, True, False]


def test_values_beyond_the_limits_are_drawn_where_they_are():
    heights = [
        float(re.findall(r'cy="([0-9.]+)"', dots(["a"], [each], [None], (0.0, 1.0)))[0])
        for each in (-0.5, 0.0)
    ]
    assert heights[0] == heights[1], "a value at the lower end of its axis"
    text = dots(["a", "b"], [-0.5, 0.0], [[-9.0, 9.0], None], (0.0, 1.0))
    below, zero = map(float, re.findall(r'cy="([0-9.]+)"', text))
    assert below > zero
    assert ">-0.5<" in text
    assert ">-9<" not in text


def test_what_is_missing_says_why():
    layers = {"pool": {"faithfulness_cosine": None, "faithfulness_cosine_reason": "there is no scale"}}
    assert "<p>Faithfulness: there is no scale.</p>" in charts(layers, ["pool"], [])


def test_layers_sort_from_input_to_output():
    text = number_table({"stage2": {"x": 1.0}, "pool": {"x": 2.0}}, ["stage2", "pool"])
    assert '<td data-value="0">stage2</td>' in text
    assert '<td data-value="1">pool</td>' in text


def test_pictures_count_as_kept_out_only_where_that_is_known():
    about = {"pictures_sampled": 4, "pictures": 50, "samples_per_picture": 2, "seed": 0}
    assert "50 pictures kept out of training" in footnote({**about, "kept_out_of_training": True})
    assert "kept out of training" not in footnote({**about, "kept_out_of_training": None})
