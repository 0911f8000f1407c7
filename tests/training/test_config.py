from dataclasses import fields, replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.system.errors import UserError
from invariances.training.config import (
    PRESETS,
    CacheConfig,
    DataConfig,
    FitConfig,
    LearningConfig,
    RunConfig,
    config_parser,
    instantiated,
)
from invariances.training.run_folder import read_config, typed, write_config

CLASSES = [FlowConfig, EmbedderConfig, DataConfig, CacheConfig, LearningConfig, RunConfig]
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**9),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (LearningConfig, {"ema": 1.0}),
        (LearningConfig, {"learning_rate": 0.0}),
        (LearningConfig, {"learning_rate": float("nan")}),
        (LearningConfig, {"optimizer": "sgd"}),
        (LearningConfig, {"keep": "first"}),
        (LearningConfig, {"weight_decay": -0.1}),
        (LearningConfig, {"regression": 1.0}),
        (LearningConfig, {"steps": 0}),
        (LearningConfig, {"batch_size": True}),
        (DataConfig, {"held_out": 0.0}),
        (DataConfig, {"held_out": 1.0}),
        (DataConfig, {"held_out": 0}),
        (DataConfig, {"images": ""}),
        (DataConfig, {"views": 2}),
        (CacheConfig, {"max_gb": -1}),
        (RunConfig, {"precision": "16-true"}),
        (RunConfig, {"output": "x" * 300}),
        (RunConfig, {"seed": -1}),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(made, options):
    with pytest.raises(UserError, match=next(iter(options))):
        made(**options)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_value_at_any_option_is_taken_or_refused(data):
    made = data.draw(st.sampled_from(CLASSES))
    name = data.draw(st.sampled_from([each.name for each in fields(made)]))
    value = data.draw(ANYTHING)
    section = {FlowConfig: "flow", DataConfig: "data", CacheConfig: "cache", LearningConfig: "learning"}
    inside = {name: value}
    whole = {"flow": {"embedder": inside}} if made is EmbedderConfig else {section.get(made, "run"): inside}
    try:
        found = typed(whole, "a file")
    except UserError as error:
        said = str(error)
    else:
        said = ""
        assert isinstance(found, FitConfig)
    assert "\n" not in said


@given(ANYTHING)
@settings(max_examples=100, deadline=None)
def test_any_yaml_is_taken_or_refused(value):
    try:
        found = typed(value, "a file")
    except UserError as error:
        found, said = None, str(error)
    else:
        said = "'a file'"
    assert "'a file'" in said
    assert found is None or isinstance(found, FitConfig)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_read_again(tmp_path, name):
    flow, learning = PRESETS[name]()
    config = FitConfig("resnet50", "layer4", "vae", size=64, token="patch", flow=flow, learning=learning)
    config = replace(config, data=DataConfig(images=["a", "b"], held_out="c"))
    write_config(tmp_path, config)
    found = read_config(tmp_path)
    assert found == replace(config, run=replace(config.run, output=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {network: x}\n", "older version"),
        ("- 1\n", "not a run's config"),
        ("data: [\n", "not valid YAML"),
        ("data: {imagse: x}\n", "imagse"),
        ("learning: {steps: many}\n", "steps"),
        ("learning: null\n", "learning"),
        ("&a [*a]", "config"),
    ],
)
def test_damaged_configs_get_a_sentence(tmp_path, text, expected):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError):
        read_config(tmp_path)


def test_a_yaml_bomb_is_no_hang(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join(['*' + chr(97 + k)] * 9)}]" for k in range(8)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    assert yaml.safe_load("a: 1") == {"a": 1}
    with pytest.raises(UserError):
        read_config(tmp_path)


def test_a_section_whose_lines_are_all_commented_out_sets_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("layer: fc\nlearning:\n  # steps: 4\nflow:\n  embedder:\n")
    parser = config_parser(FitConfig)
    assert instantiated(parser, parser.parse_args(["-c", str(tmp_path / "a.yaml")])) == FitConfig(layer="fc")
