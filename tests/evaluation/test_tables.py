import pytest
import torch

from invariances.evaluation.tables import Table, difference, load_tables, save_tables
from invariances.system.errors import UserError


def drawn(n, k=1, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).double()


def test_statistics_of_known_means():
    assert Table(torch.tensor([[1.0, 4.0], [3.0, 4.0]]), "ratio").told("x")["x"] == 0.5
    assert Table(torch.tensor([[1.0, 2.0]]), "explained").told("x")["x"] == 0.75
    assert Table(torch.tensor([[0.6, 0.9, 0.3]]), "over_chance").told("x")["x"] == pytest.approx(0.5)
    assert Table(torch.tensor([[0.6, 0.9, 0.3]]), "scaled_higher").told("x")["x"] == pytest.approx(0.5)
    lost = Table(torch.tensor([[0.6, 0.3, 0.9]]), "scaled_higher").told("x")
    assert lost["x"] is None
    assert "than the reconstructions" in lost["x_reason"]
    still = Table(torch.zeros(5, 2)).values
    assert Table(still, "ratio").told("x")["x_reason"] == "these pictures do not vary"
    assert "than the reconstructions" not in Table(torch.ones(5, 3), "over_chance").told("x")["x_reason"]
    assert Table(torch.tensor([[float("nan")]])).told("x")["x"] is None


def test_two_that_are_the_same_differ_by_nothing():
    table = Table(drawn(50, 3).abs(), "mean")
    assert difference(table, table) == {"difference": 0.0, "difference_interval": [0.0, 0.0]}


def test_a_planted_difference_is_found_and_sure():
    one = Table(drawn(300))
    other = Table(one.values + 0.05 + 0.1 * drawn(300, seed=1))
    found = difference(one, other)
    low, high = found["difference_interval"]
    assert 0 < low < 0.05 < high < 0.08
    assert low < found["difference"] < high


def test_what_does_not_compare_is_refused():
    with pytest.raises(UserError, match="same pictures"):
        difference(Table(drawn(5)), Table(drawn(6)))
    assert difference(Table(drawn(5)), Table(torch.full((5, 1), float("nan"))))["difference"] is None


def test_tables_come_back_from_a_file(tmp_path):
    path = tmp_path / "tables.safetensors"
    save_tables({"a": Table(drawn(5, 2), "ratio")}, path)
    found = load_tables(path)
    assert found["a"].statistic == "ratio"
    assert torch.equal(found["a"].values, drawn(5, 2))
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="profile again"):
        load_tables(path)
