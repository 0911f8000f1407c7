"""`invariances layers NETWORK`, as typed."""

import io
import json
import sys

import pytest

from invariances.cli.layers import table
from invariances.cli.main import main
from invariances.representation.survey import Layer


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main(["layers", *arguments]))
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def test_the_table_is_aligned_and_in_order(capsys):
    code, out, err = run(capsys, "squeezenet1_1", "--size", "64")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["layer", "shape", "module"]
    names = [line.split()[0] for line in lines[1:]]
    assert names[:2] == ["input", "features.0"]
    assert names[-2:] == ["logits", "softmax"]
    assert "features.12" in names
    assert "classifier.0" not in names  # a dropout, which does nothing here
    assert len({line.index(line.split()[1]) for line in lines}) == 1
    assert "64×31×31" in lines[2]
    assert "more layers: --all true" in err


def test_all_and_json_name_every_layer(capsys):
    code, out, _ = run(capsys, "squeezenet1_1", "--size", "64", "--all", "true")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert code == 0
    assert {"classifier.0", "features.3.expand1x1"} <= set(names)
    code, out, err = run(capsys, "squeezenet1_1", "--size", "64", "--json", "true")
    shapes = json.loads(out)
    assert code == 0
    assert err == ""
    assert list(shapes) == names
    assert shapes["input"] == [3, 64, 64]
    assert shapes["softmax"] == [1000]


def test_short_names_and_repeated_calls_are_noted():
    text = table(
        [
            Layer("input", (3, 8, 8)),
            Layer("relu", (4, 2, 2), "ReLU", 3),
            Layer("fc", (5,), "Linear", 1, ("fc8",)),
        ]
    )
    assert text.splitlines()[1:] == [
        "input  3×8×8",
        "relu   4×2×2  ReLU    called 3 times, this is the last; relu#1 is the first",
        "fc     5      Linear  also fc8",
    ]


def test_unknown_networks_and_sizes_get_a_sentence(capsys):
    code, out, err = run(capsys, "squeezenet1_7")
    assert (code, out) == (2, "")
    assert "network 'squeezenet1_7' is unknown; the nearest names are" in err
    assert "'squeezenet1_1'" in err
    assert "Traceback" not in err
    code, _, err = run(capsys, "vit_b_32", "--size", "40")
    assert code == 2
    assert "cannot be run on images of 40×40 pixels" in err
    code, _, err = run(capsys, "squeezenet1_1", "--weights", "nowhere.pth")
    assert code == 2
    assert "'nowhere.pth' are not there" in err


def test_a_terminal_gets_what_it_can_show(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["layers", "squeezenet1_1", "--size", "64"]) == 0
    shown.flush()
    assert "64?31?31" in shown.buffer.getvalue().decode("ascii")


def test_weights_of_another_network_get_a_sentence(capsys):
    code, out, err = run(capsys, "resnet18", "--weights", "ResNet50_Weights.DEFAULT")
    assert (code, out) == (2, "")
    assert "ResNet50_Weights.DEFAULT belongs to resnet50, not to resnet18" in err
