from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.bench.report import environment, percentile, processor, publish, table


def test_a_percentile_is_the_value_at_its_rank() -> None:
    values = [float(v) for v in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([3.0, 1.0, 2.0], 50) == 2


def test_there_is_no_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_was_observed_and_is_not_below_its_share(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) >= percent / 100 * len(values) - 1e-9


def test_a_table_is_markdown_and_keeps_its_columns() -> None:
    text = table(["name", "value"], [["a|b", 1], ["c", 2.5]])
    assert text.splitlines() == [
        "| name | value |",
        "| --- | ---: |",
        "| a\\|b | 1 |",
        "| c | 2.5 |",
    ]


def test_the_processor_is_named_with_family_and_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R)\n\n"
        "processor\t: 1\nmodel name\t: another\n"
    )
    assert processor(cpuinfo) == "Intel(R) Xeon(R) (family 6 model 143)"


def test_figures_name_machine_versions_and_command() -> None:
    text = environment()
    assert "cores" in text
    assert "llama-cpp-python 0." in text
    assert "pytest" in text


def test_a_report_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish("# Figures\n", tmp_path / "docs" / "figures.md")
    assert capsys.readouterr().out == "# Figures\n"
    assert (tmp_path / "docs" / "figures.md").read_text() == "# Figures\n"
