from invariances.report.compare_page import around_zero, difference_charts, distinct


def test_folders_are_named_by_what_tells_them_apart():
    assert distinct("/a/b/one", "/a/b/two") == ["one", "two"]
    assert distinct("runs/x/profile", "runs/y/profile") == ["x/profile", "y/profile"]
    assert distinct("same", "same") == ["same", "same"]


def test_zero_is_in_the_middle_and_nothing_is_blown_up():
    assert around_zero([{"difference": 0.0, "difference_interval": [0.0, 0.0]}, {}]) == (-0.1, 0.1)
    assert around_zero([{"difference": -0.2, "difference_interval": [-0.5, 0.3]}]) == (-0.5, 0.5)


def test_the_main_numbers_come_first_and_sure_ones_are_orange():
    numbers = {
        "factor size": {"difference": 0.0, "difference_interval": [-0.1, 0.1], "sure": False},
        "information": {"difference": -3.0, "difference_interval": [-4.0, -2.0], "sure": True},
        "probe size": {"difference": None, "difference_reason": "none", "sure": False},
    }
    text = difference_charts({"layer1": numbers}, "other")
    assert text.index("Information, bits") < text.index("size kept") < text.index("size as a probe reads it")
    assert text.count("#e07b39") == 2
    assert "layer1: -3.000 [-4.000, -2.000]" in text
    assert text.count("Above 0: more of it in other.") == 3
    assert "Share that samples keep" in text
