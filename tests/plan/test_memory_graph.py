"""The model of ggml's graph allocator: places, reuse, and what it never may do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from okno.plan.memory_graph import ALIGNMENT, Graph, _aligned


def test_a_tensor_is_freed_after_its_last_reader() -> None:
    graph = Graph()
    first = graph.compute(1000)
    second = graph.compute(1000, first)
    third = graph.compute(1000, second)
    graph.compute(1000, third)
    assert graph.peak_bytes() == 2 * 1024


def test_a_tensor_that_is_read_again_stays() -> None:
    graph = Graph()
    first = graph.compute(1024)
    second = graph.compute(1024, first)
    third = graph.compute(1024, second)
    graph.compute(1024, third, first)
    assert graph.peak_bytes() == 3 * 1024


def test_a_result_may_overwrite_what_nobody_else_reads() -> None:
    graph = Graph()
    graph.over(graph.over(graph.compute(1024)))
    assert graph.peak_bytes() == 1024


def test_nothing_is_written_over_a_view_or_an_output() -> None:
    viewed, kept = Graph(), Graph()
    viewed.over(viewed.view(viewed.compute(1024)))
    kept.over(kept.compute(1024, kept=True))
    assert viewed.peak_bytes() == kept.peak_bytes() == 2 * 1024


def test_a_view_keeps_the_memory_it_shows() -> None:
    graph = Graph()
    shown = graph.view(graph.compute(1024))
    other = graph.compute(1024, graph.compute(1024))
    graph.compute(1024, other, shown)
    assert graph.peak_bytes() == 3 * 1024


def test_an_input_without_readers_is_never_freed() -> None:
    graph = Graph()
    graph.input(1024)
    for _ in range(3):
        graph.compute(1024, graph.input(32))
    assert graph.peak_bytes() >= 1024 + 3 * 32


def test_a_write_to_a_cache_needs_no_memory() -> None:
    graph = Graph()
    graph.write(graph.view(graph.compute(1024)))
    graph.compute(1024)
    assert graph.peak_bytes() == 1024


def test_a_small_tensor_takes_the_smallest_hole_that_holds_it() -> None:
    graph = Graph()
    holes = [graph.compute(size) for size in (4096, 64, 1024, 64)]
    graph.write(holes[0])
    graph.write(holes[2])
    small = graph.compute(1024)
    large = graph.compute(4096)
    graph.write(small, large, holes[1], holes[3])
    assert graph.peak_bytes() == 4096 + 64 + 1024 + 64


Steps = st.lists(st.tuples(st.integers(1, 5000), st.sets(st.integers(0, 30), max_size=3),
                           st.booleans()), max_size=30)  # fmt: skip


@given(Steps)
def test_the_peak_is_between_what_lives_at_once_and_the_sum(
    steps: list[tuple[int, set[int], bool]],
) -> None:
    graph, sizes, last_read = Graph(), [], {}
    for number, (size, read, over) in enumerate(steps):
        sources = tuple(source for source in read if source < number)
        graph.compute(size, *sources, over=sources[:1] if over else ())
        sizes.append(_aligned(size))
        last_read.update(dict.fromkeys(sources, number))
    alone = max(sizes, default=0)
    assert alone <= graph.peak_bytes() <= sum(sizes)
    never_read = sum(size for number, size in enumerate(sizes) if number not in last_read)
    assert graph.peak_bytes() >= never_read
    assert graph.peak_bytes() % ALIGNMENT == 0
