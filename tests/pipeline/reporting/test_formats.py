"""How values become text."""

import pytest

from pipeline.reporting import formats

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    "show", [formats.count, formats.fraction, formats.number, formats.p_value, formats.percent, formats.points]
)
def test_figures_that_do_not_exist_are_a_dash(show: object) -> None:
    assert show(None) == formats.interval(None, None) == formats.points_interval(None, None) == formats.NONE  # type: ignore[operator]


def test_figures_are_read_at_a_glance() -> None:
    assert formats.percent(0.1234).split() == ["12.3", "%"]
    assert [formats.short_percent(share).split()[0] for share in (0.68, 0.325, 1.0, 0.0)] == ["68", "32.5", "100", "0"]
    assert formats.interval(0.1, 0.234).split() == ["10.0", "to", "23.4", "%"]
    assert formats.points_interval(-0.012, -1e-9) == f"{MINUS}1.2 to {MINUS}0.0000001"
    assert formats.points_ends(0.0004, 0.0) == "0.04 to 0.0"
    assert (formats.num_points(0.01), formats.num_points(-0.023)) == ("1.0 point", f"{MINUS}2.3 points")
    shares = {2e-9: "2e-07", 0.00034: "0.034", 0.1234: "12", 0.996: "100", 1.0: "100", 0.0: "0.0"}
    assert [formats.tiny_percent(share).split()[0] for share in shares] == list(shares.values())
    assert (formats.p_value(1e-9), formats.p_value(0.25), formats.number(-0.5)) == (
        "< 0.0001",
        "0.2500",
        f"{MINUS}0.50",
    )


@pytest.mark.parametrize(
    ("num_parameters", "expected"),
    [(258_368, "258,368"), (2_097_152, "2.10 million"), (2_506_172_416, "2.51 billion"), (10**9, "1.00 billion")],
)
def test_the_size_of_a_model_is_said_in_one_way(num_parameters: int, expected: str) -> None:
    assert formats.parameters(num_parameters) == f"{expected} parameters"
