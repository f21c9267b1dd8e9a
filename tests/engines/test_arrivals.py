from __future__ import annotations

from okno.engines.arrivals import Arrivals


def test_what_arrives_is_wanted() -> None:
    arrivals = Arrivals()
    arrivals.begin("a")
    assert arrivals.arrived("a")


def test_what_was_left_while_it_was_prepared_is_not_wanted() -> None:
    arrivals = Arrivals()
    arrivals.begin("a")
    arrivals.begin(7)
    arrivals.gone("a")
    assert not arrivals.arrived("a")
    assert arrivals.arrived(7)


def test_leaving_what_is_not_on_its_way_leaves_no_trace() -> None:
    arrivals = Arrivals()
    arrivals.gone("a")
    arrivals.begin("a")
    assert arrivals.arrived("a")
    arrivals.gone("a")
    arrivals.begin("a")
    assert arrivals.arrived("a")
