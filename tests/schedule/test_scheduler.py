from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from okno.schedule.fair import PATIENCE
from okno.schedule.step import Copy, Limits, Restore, Sampled, Truncate
from tests.schedule.run import UNIFIED, Run, alone


def test_batch_size_is_exactly_how_many_are_decoded_at_once() -> None:
    run = Run(replace(UNIFIED, batch_size=2))
    for k in range(5):
        run.add(f"r{k}", [k] * 10, answer=6)
    most = 0
    while len(run.done) < 5:
        run.step(budget=64)
        most = max(most, len(run.scheduler.live))
    assert most == 2


def test_batch_size_one_answers_one_after_the_other_in_order() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    for k in range(8):
        run.add(f"r{k}", [k] * 10, answer=6)
    run.finish()
    assert list(run.done) == [f"r{k}" for k in range(8)]
    assert all(len({span.id for span in step.spans}) <= 1 for step in run.steps)


def test_a_long_prompt_advances_in_pieces_beside_running_sequences() -> None:
    run = Run()
    run.add("short", [1] * 10, answer=30)
    run.step()
    run.add("long", list(range(40)), answer=4)
    while "long" not in run.done:
        step = run.step(budget=8)
        assert step.rows <= 8
        assert any(span.id == "short" and span.logits for span in step.spans)


def test_prompt_rows_bounds_only_the_prompt_pieces() -> None:
    run = Run()
    run.add("a", [1] * 10, answer=20)
    run.step()
    run.add("b", list(range(30)), answer=2)
    step = run.step(budget=64, prompt_rows=5)
    assert [len(span.tokens) for span in step.spans] == [1, 5]


def test_the_next_turn_of_a_conversation_starts_from_its_parked_prefix() -> None:
    run = Run()
    run.add("turn1", list(range(20)), answer=5)
    run.finish()
    run.add("turn2", [*run.done["turn1"], 7, 7, 7], answer=3)
    run.step()
    assert run.cached["turn2"] == 24  # 20 + 5, of which the last was never computed


def test_choices_of_one_prompt_compute_it_once() -> None:
    run = Run()
    prompt = list(range(48))
    for k in range(4):
        run.add(f"c{k}", prompt, answer=8)
    run.finish()
    computed = sum(step.rows for step in run.steps)
    assert computed < 48 + 4 * 8 + 4
    assert sorted(run.cached.values()) == [0, 47, 47, 47]


def test_a_diverging_prompt_copies_the_common_part_and_leaves_the_donor() -> None:
    run = Run()
    run.add("a", list(range(30)), answer=2)
    run.finish()
    run.add("b", [*range(20), 40, 41, 42], answer=2)
    step = run.step()
    assert step.operations == (Copy(0, 1, 20),)
    assert len(run.scheduler.parked) == 1


def test_without_copies_the_parked_sequence_is_taken_over_and_cut() -> None:
    run = Run(Limits(batch_size=2, seq_ids=2, pool_cells=128, copies=False))
    run.add("a", list(range(30)), answer=2)
    run.finish()
    run.add("b", [*range(20), 40, 41, 42], answer=2)
    step = run.step()
    assert step.operations == (Truncate(0, 20),)


def test_models_that_cannot_roll_back_reuse_only_whole_conversations() -> None:
    run = Run(replace(UNIFIED, truncates=False))
    run.add("a", list(range(30)), answer=2)
    run.finish()
    run.add("other", [*range(20), 40, 41], answer=2)
    run.add("next", [*run.done["a"], 5, 5], answer=2)
    run.finish()
    assert run.cached["other"] == 0
    assert run.cached["next"] == 31


def test_a_small_pool_preempts_the_youngest_and_every_request_ends_whole() -> None:
    run = Run(Limits(batch_size=4, seq_ids=8, pool_cells=70))
    for k in range(4):
        run.add(f"r{k}", [k, *range(12)], answer=40)
    run.finish()
    assert run.scheduler.preemptions > 0
    for k in range(4):
        assert run.done[f"r{k}"] == alone([k, *range(12)], 40)


def test_position_counts_those_admitted_before() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    for k in range(3):
        run.add(f"r{k}", [k] * 10)
    assert [run.scheduler.position(f"r{k}") for k in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("state", ["waiting", "prefill", "decode"])
def test_a_cancelled_request_frees_its_slot_at_once(state: str) -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    if state == "waiting":
        run.add("first", [1] * 10)
        run.step()
    run.add("gone", list(range(30)), answer=20)
    for _ in range({"waiting": 0, "prefill": 1, "decode": 6}[state]):
        run.step(budget=8)
    run.scheduler.cancel("gone")
    run.add("next", [3] * 10)
    run.finish()
    assert run.done["next"] == alone([3] * 10, 4)
    assert "gone" not in run.done


def test_operations_are_not_lost_in_a_step_without_rows() -> None:
    run = Run(replace(UNIFIED, parks=False))
    run.add("short", [1, 2, 3], answer=2)
    run.finish()
    assert run.step().spans == ()
    run.add("next", [4] * 20, answer=2)
    assert run.step().operations == (Truncate(0, 0),)
    run.finish()


def test_cancel_of_an_unknown_request_is_ignored() -> None:
    Run().scheduler.cancel("nobody")


def test_drafts_that_are_right_bring_several_tokens_in_one_step() -> None:
    run = Run()
    run.add("a", [1, 2, 3], answer=20)
    run.step()
    before = len(run.texts["a"])
    run.step(right=3)
    assert len(run.texts["a"]) == before + 4
    run.step(right=0)
    assert len(run.texts["a"]) == before + 5
    run.finish(right=2)
    assert run.done["a"] == alone([1, 2, 3], 20)


def test_drafts_take_only_rows_and_cells_that_are_free() -> None:
    run = Run(Limits(batch_size=2, seq_ids=2, pool_cells=40))
    run.add("a", [1] * 8, answer=30)
    run.step(budget=8)
    run.add("b", [2] * 20, answer=2)
    step = run.step(budget=8, right=3)  # the prompt comes first
    assert [len(span.tokens) for span in step.spans] == [1, 7]
    run.finish(budget=8, right=3)
    assert run.done["a"] == alone([1] * 8, 30)


def test_an_answer_that_ends_inside_its_drafts_is_parked_whole() -> None:
    run = Run()
    run.add("a", list(range(12)), answer=3)
    run.step()
    run.step(right=3)
    assert run.done["a"] == alone(list(range(12)), 3)
    run.add("next", [*run.done["a"], 5], answer=1)
    run.finish()
    assert run.cached["next"] == 14  # all but the last token, which nobody computed


def test_a_failed_sequence_leaves_its_slot_and_its_cells() -> None:
    run = Run(replace(UNIFIED, parks=False))
    run.add("a", [1] * 10, answer=9)
    step = run.scheduler.schedule(64)
    run.cache.execute(step)
    run.scheduler.update(step, {"a": Sampled((), ended=True)})
    assert (run.scheduler.pool.used, len(run.scheduler.live)) == (0, 0)


def test_prefixes_of_another_salt_are_not_shared() -> None:
    run = Run()
    prompt = list(range(20))
    run.add("a", prompt, answer=2, salt="anna")
    run.finish()
    run.add("b", prompt, answer=2, salt="boris")
    run.add("c", prompt, answer=2, salt="anna")
    run.finish()
    assert (run.cached["b"], run.cached["c"]) == (0, 19)


def test_what_lost_its_cells_comes_back_from_host_memory() -> None:
    run = Run(Limits(batch_size=1, seq_ids=2, pool_cells=40, host_bytes=100))
    run.add("a", [1] * 30, answer=4)
    run.finish()
    run.add("b", [2] * 30, answer=4)
    run.finish()
    run.add("a2", [*run.done["a"], 3], answer=2)
    run.step()
    assert any(isinstance(operation, Restore) for operation in run.steps[-1].operations)
    run.finish()
    assert run.cached["a2"] == 33


def test_without_room_in_host_memory_it_is_computed_again() -> None:
    run = Run(Limits(batch_size=1, seq_ids=2, pool_cells=40, host_bytes=20))
    for id, token in (("a", 1), ("b", 2)):
        run.add(id, [token] * 30, answer=4)
        run.finish()
    run.add("a2", [*run.done["a"], 3], answer=2)
    run.finish()
    assert run.cached["a2"] == 0


def test_a_preempted_sequence_is_swapped_not_computed_again() -> None:
    def rows(host_bytes: int) -> int:
        run = Run(Limits(batch_size=4, seq_ids=8, pool_cells=70, host_bytes=host_bytes))
        for k in range(4):
            run.add(f"r{k}", [k, *range(12)], answer=40)
        run.finish()
        assert run.scheduler.preemptions > 0
        assert all(run.done[f"r{k}"] == alone([k, *range(12)], 40) for k in range(4))
        return sum(step.rows for step in run.steps)

    assert rows(1000) < rows(0)
    assert rows(1000) <= 4 * (13 + 40) + 4


def test_models_that_cannot_roll_back_are_swapped_whole() -> None:
    limits = Limits(batch_size=4, seq_ids=8, pool_cells=70, truncates=False, host_bytes=1000)
    run = Run(limits)
    for k in range(4):
        run.add(f"r{k}", [k, *range(12)], answer=40)
    run.finish()
    assert run.scheduler.preemptions > 0
    assert sum(step.rows for step in run.steps) <= 4 * (13 + 40) + 4


def test_a_prefix_that_was_of_use_outlives_newer_ones() -> None:
    run = Run(Limits(batch_size=1, seq_ids=4, pool_cells=120))
    system = [7] * 30
    run.add("s0", [*system, 1], answer=1)
    run.finish()
    for k in range(1, 12):  # each brings a prefix of its own; every third asks for the system's
        prompt = [*system, k] if k % 3 == 0 else [k] * 30
        run.add(f"s{k}", prompt, answer=1)
        run.finish()
        if k % 3 == 0:
            assert run.cached[f"s{k}"] >= 30


def test_a_short_prompt_passes_a_long_one_and_a_long_one_is_not_starved() -> None:
    run = Run(Limits(batch_size=4, seq_ids=8, pool_cells=4000))
    run.add("long", [1] * 400, answer=2)
    run.step(budget=16)
    order = []
    for k in range(60):
        run.add(f"short{k}", [2, k] * 5, answer=1)
        run.step(budget=16)
        run.step(budget=16)
        order += [id for id in run.done if id not in order]
    run.finish()
    assert order[0] == "short0"
    assert "long" in order  # although short ones kept coming


def test_a_long_prompt_is_passed_until_its_own_work_was_done_a_few_times() -> None:
    run = Run(Limits(batch_size=4, seq_ids=8, pool_cells=4000))
    run.add("long", [1] * 100, answer=1)
    for passed in range(100):
        run.add(f"short{passed}", [2, passed] * 5, answer=1)
        if any(span.id == "long" for span in run.step(budget=10).spans):
            break
    assert 10 * passed == PATIENCE * (100 - 10)


def test_short_prompts_behind_a_long_one_keep_to_the_rows_of_a_small_step() -> None:
    run = Run()
    run.add("long", [1] * 40, client="a", weight=4.0)
    run.step(budget=6)
    run.add("short", [2] * 4, client="b")
    run.add("other", [3] * 4, client="c")
    rows = {span.id: len(span.tokens) for span in run.step(budget=6).spans}
    assert rows == {"long": 4, "short": 1, "other": 1}


NO_SHRINK = (Phase.explicit, Phase.generate)
arrivals = st.tuples(
    st.integers(0, 3),  # which common prefix
    st.integers(0, 30),  # how much of it
    st.lists(st.integers(0, 49), min_size=1, max_size=12),
    st.integers(1, 12),  # answer length
    st.integers(0, 2),  # client
    st.sampled_from(["", "s"]),  # salt
    st.sampled_from([0.25, 1.0, 4.0]),  # weight
)
actions = st.lists(
    st.one_of(
        arrivals,
        st.tuples(st.just("step"), st.integers(-1, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
    ),
    max_size=60,
)
limits = st.builds(
    Limits,
    batch_size=st.integers(1, 4),
    seq_ids=st.integers(4, 9),
    pool_cells=st.sampled_from([60, 90, 200]),
    copies=st.booleans(),
    truncates=st.booleans(),
    parks=st.booleans(),
    host_bytes=st.sampled_from([0, 40, 1000]),
)


@settings(max_examples=400, deadline=None, phases=NO_SHRINK)
@given(limits, actions, st.integers(1, 40))
def test_no_schedule_loses_repeats_reorders_or_mixes_tokens(
    limits: Limits, actions: list[object], budget: int
) -> None:
    prefixes = [[(p * 7 + i) % 50 for i in range(30)] for p in range(4)]
    run = Run(limits)
    expected: dict[str, list[int]] = {}
    for action in actions:
        match action:
            case ("step", int(right)):
                run.step(budget, right=right)
            case ("cancel", int(which)):
                run.scheduler.cancel(f"r{which}")
                if f"r{which}" not in run.done:
                    expected.pop(f"r{which}", None)
            case (
                int(p),
                int(take),
                list(tail),
                int(answer),
                int(client),
                str(salt),
                float(weight),
            ):
                id = f"r{len(run.texts)}"
                prompt = prefixes[p][:take] + tail
                run.add(id, prompt, answer, client=str(client), salt=salt, weight=weight)
                expected[id] = alone(prompt, answer)
    run.finish(budget)
    assert {id: run.done[id] for id in expected} == expected
    parked = [s.cells.view() for s in run.scheduler.parked.values()]
    assert run.scheduler.pool.used == run.scheduler.pool.distinct(parked)


def test_models_that_cannot_roll_back_start_from_checkpoints_of_others() -> None:
    limits = Limits(
        batch_size=2, seq_ids=4, pool_cells=4000, copies=False, truncates=False, host_bytes=9000
    )
    run = Run(limits)
    system = [5] * 600
    run.add("a", [*system, *range(50)], answer=3)
    run.finish(budget=64)
    run.add("same again", [*system, *range(50)], answer=3)
    run.finish(budget=64)
    run.add("other question", [*system, 9, 9, 9], answer=3)
    run.finish(budget=64)
    assert (run.cached["same again"], run.cached["other question"]) == (640, 512)


def test_without_host_memory_no_prompt_is_cut_for_checkpoints() -> None:
    run = Run(Limits(batch_size=2, seq_ids=4, pool_cells=4000, truncates=False))
    run.add("a", [5] * 600, answer=1)
    assert len(run.step(budget=1000).spans[0].tokens) == 600
