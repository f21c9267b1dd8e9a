"""Plans of real files and of the catalog, on this machine and on others."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from okno.advisor.figures import place_of
from okno.advisor.learnt import (
    Learnt,
    learnt,
    lesson_keeper,
    save_run,
    with_measured,
)
from okno.advisor.model import find
from okno.advisor.planning import make_plan
from okno.advisor.quants import FINEST_FIRST, finer_first, requantised
from okno.advisor.report import as_json
from okno.advisor.request import Words, plan_request
from okno.core.calibration import Calibration
from okno.core.errors import BadSetting, ModelNotFound
from okno.core.machine import Cpu, Device, Machine, Ram
from okno.core.plan import Figure
from okno.inspect.hardware.engine import engine_name
from okno.inspect.hardware.overrides import Overrides
from okno.inspect.header import read_header
from okno.plan.depth import DepthCurve, PositionLoss, WindowLoss
from okno.plan.depth_document import to_document
from okno.plan.refine import Refinement
from okno.plan.search import LOAD, ROOM_BYTES, fits
from okno.plan.speed_rough import rough_calibration
from okno.store.calibrations import CalibrationKey, save_calibration
from okno.store.database import Database
from okno.store.depth_curves import save_depth
from okno.store.identity import model_identity
from okno.store.overheads import save_overhead
from tests.plan.fakes import KneeSpeed, figure

MIB, GIB = 1 << 20, 1 << 30
CPU = Cpu("a cpu", "x86_64", 2, 2, 2, ("avx2", "fma", "f16c"))


def machine(free_bytes: int = 8 * GIB) -> Machine:
    return Machine("Linux", CPU, Ram(16 * GIB, free_bytes, "given"))


@pytest.fixture
def database(tmp_path) -> Database:
    return Database(tmp_path / "okno.db")


def report(model, database, overrides=None, free_bytes=8 * GIB, **words):
    request = plan_request(Words(model=str(model), **words), overrides=overrides or Overrides())
    return make_plan(request, machine=machine(free_bytes), database=database)


def test_a_real_file_is_planned_by_the_engine_itself(make_model, database):
    found = report(make_model("tiny", "Q4_0"), database)
    assert found.plan.pick.memory.source == "engine"
    assert fits(found.plan.pick.memory)
    assert found.plan.pick.speed.total_tok_s.kind == "predicted"
    assert found.calibration == "rough"
    assert any("okno calibrate" in note for note in found.notes)


def test_the_report_is_plain_json(make_model, database):
    told = json.loads(json.dumps(as_json(report(make_model("tiny"), database))))
    assert told["pick"]["fits"]
    assert told["windows"][0]["memory"]["devices"][0]["parts"]["kv_bytes"] > 0
    assert told["table"]["verdict"]


def test_a_catalog_model_is_planned_without_its_file(database):
    found = report("saiga2_13b", database, quant="gptq-4bit", batch_size=1, ctx=2048)
    assert found.subject.is_estimated
    assert found.asked.memory.source == "closed form"
    assert found.asked.load.window.ctx == 2048


def test_the_users_command_does_not_fit_8_gb_of_video_memory_and_does_12(database):
    """`Saiga-13B-GPTQ --batch_size 1 --ctx 2048`: "safe for 8-12 GB"."""
    asked = {"quant": "gptq-4bit", "batch_size": 1, "ctx": 2048}
    small, large = (
        report("saiga2_13b", database, Overrides(memory_bytes=gib * GIB, device="cuda"), **asked)
        for gib in (8, 12)
    )
    assert not small.asked_fits
    assert any(advice.fits and advice.change == "offload" for advice in small.advice)
    assert small.table.verdict == "does not hold"
    assert large.asked_fits
    assert large.advice == ()


def test_where_the_asked_window_does_not_fit_the_best_that_does_is_shown(make_model, database):
    found = report(
        make_model("tiny"), database, free_bytes=300 << 20, batch_size=256, ctx=4096, kv_type="f16"
    )
    assert not found.asked_fits
    assert fits(found.instead.memory)
    assert found.advice[0].fits


FIXED = {"batch_size": 256, "ctx": 4096}


def needed_with(model, database, kv_type: str) -> int:
    memory = report(model, database, kv_type=kv_type, **FIXED).asked.memory
    return memory.needed_bytes + memory.margin_bytes


@pytest.mark.parametrize(
    ("wanted", "coarser", "chosen"),
    [("auto", "q8_0", "q8_0"), ("auto", "q4_0", "q4_0"), ("f32,f16", "f16", "f16")],
)
def test_a_fixed_window_gets_fewer_kv_bits_where_only_those_fit(
    wanted, coarser, chosen, make_model, database
):
    path = make_model("qwen3-tiny")
    free_bytes = needed_with(path, database, coarser) + ROOM_BYTES
    found = report(path, database, free_bytes=free_bytes, kv_type=wanted, **FIXED)
    first = "f32" if wanted == "f32,f16" else "f16"
    assert found.plan.loads[0].load.window.kv_type == first
    assert found.asked_fits
    assert found.asked == found.plan.pick
    assert found.asked.load.window.kv_type == chosen
    assert (found.instead, found.advice) == (None, ())
    (note,) = (note for note in found.notes if note.startswith("KV is"))
    assert f"KV is {chosen}, because with {first} this window needs" in note
    assert "too much on cpu" in note


def test_a_fixed_window_keeps_the_first_kv_type_where_that_fits(make_model, database):
    path = make_model("qwen3-tiny")
    free_bytes = needed_with(path, database, "f16") + MIB
    found = report(path, database, free_bytes=free_bytes, kv_type="auto", **FIXED)
    assert found.asked.load.window.kv_type == "f16"
    assert not any(note.startswith("KV is") for note in found.notes)


def test_a_fixed_window_that_fits_with_no_kv_type_is_judged_by_the_first(make_model, database):
    found = report(make_model("qwen3-tiny"), database, free_bytes=60 * MIB, **FIXED)
    assert not found.asked_fits
    assert found.asked.load.window.kv_type == "f16"
    assert not any(note.startswith("KV is") for note in found.notes)


def test_quant_auto_takes_the_finest_that_fits_and_meets_the_limits(database):
    def chosen(gib: int) -> str:
        gpu = Overrides(memory_bytes=gib * GIB, device="cuda", bandwidth_bytes_s=1e12)
        return report("saiga_mistral_7b", database, gpu, quant="auto").subject.file_type

    order = [FINEST_FIRST.index(chosen(gib)) for gib in (24, 6, 4)]
    assert FINEST_FIRST[order[0]] == "Q8_0"
    assert order == sorted(set(order))


def test_requantised_weights_shrink_and_keep_the_shape(make_model):
    header = read_header(make_model("tiny", "F16"))
    sizes = [one.weights_bytes for one in finer_first(header)]
    assert sizes == sorted(sizes, reverse=True)
    smaller = requantised(header, "q8_0")
    assert (smaller.n_params, smaller.file_type) == (header.n_params, "Q8_0")


def test_requantising_is_exact(make_model):
    """The quantiser itself agrees to the byte."""
    computed = requantised(read_header(make_model("tiny", "F16")), "Q8_0")
    assert computed.weights_bytes == read_header(make_model("tiny", "Q8_0")).weights_bytes


def test_an_unknown_name_is_refused_and_a_name_is_never_a_path(tmp_path, make_model):
    with pytest.raises(ModelNotFound):
        find("no-such-model-anywhere", tmp_path)
    path = make_model("tiny")
    assert find(str(path), tmp_path).path == path
    with pytest.raises(ModelNotFound):
        find(str(path), tmp_path, by_name=True)
    with pytest.raises(BadSetting):
        find("saiga2_13b", tmp_path, quant="q99")


def test_a_calibration_counts_where_it_was_measured_and_only_there(database):
    here = machine()
    calibration = replace(rough_calibration(here), kind="measured", created="2026-11-22")
    key = CalibrationKey(here.fingerprint, engine_name(), 2)
    save_calibration(database, key, calibration.to_json())
    known = learnt(here, None, database)
    assert known.calibration == calibration
    assert place_of(here, Overrides(), known).source == "measured"
    assert place_of(here, Overrides(memory_bytes=4 * GIB), known).source == "measured"
    for other in ({"bandwidth_bytes_s": 1e11}, {"cores": 8},
                  {"device": "cuda", "memory_bytes": 8 * GIB}):  # fmt: skip
        elsewhere = place_of(here, Overrides(**other), known)
        assert (elsewhere.source, elsewhere.is_here) == ("rough", False)


def test_a_store_that_cannot_be_read_is_said_and_the_plan_goes_on(make_model, tmp_path):
    broken = tmp_path / "okno.db"
    broken.write_bytes(b"this is no database" * 100)
    found = report(make_model("tiny"), Database(broken))
    assert found.plan.pick
    assert any("database" in note for note in found.notes)


def test_a_measured_window_is_shown_as_measured(make_model, database):
    path = make_model("tiny", "Q4_0")
    pick = report(path, database).plan.pick
    fast = replace(figure(12345.0), kind="measured")
    save_run(database, machine(), path, pick.load, replace(pick.speed, total_tok_s=fast))
    again = report(path, database).plan
    batch = pick.load.window.batch_size
    shown = [p.speed for p in again.loads if p.load.window.batch_size == batch and p.speed]
    assert {(s.total_tok_s.value, s.total_tok_s.kind) for s in shown} == {(12345.0, "measured")}
    [narrow] = report(path, database, batch_size=batch, ctx=256).plan.loads
    assert narrow.speed.total_tok_s.kind == "predicted", "the measured prompt does not fit"
    assert narrow.speed.fill_tokens == 256
    assert report(path, database, prompt_tokens=100).plan.pick.speed.total_tok_s.kind == "predicted"


def test_a_measurement_does_not_speak_of_another_way_of_loading(database, make_model):
    path = make_model("tiny")
    speed = KneeSpeed()(LOAD)
    save_run(database, machine(), path, LOAD, replace(speed, total_tok_s=replace(
        speed.total_tok_s, kind="measured")))  # fmt: skip
    goal = plan_request(Words(), overrides=Overrides()).goal
    runs = learnt(machine(), path, database).measured
    assert len(runs) == 1
    for other, kind in ((LOAD, "measured"), (replace(LOAD, gpu_layers=3), "predicted")):
        assert with_measured(speed, other, runs, goal).total_tok_s.kind == kind


def keep_calibration(database: Database, here: Machine) -> Calibration:
    made = replace(rough_calibration(here, "cpu"), kind="measured", created="2026-11-22")
    key = CalibrationKey(here.fingerprint, engine_name(), 2)
    save_calibration(database, key, made.to_json())
    return made


def test_without_the_calibration_what_was_learnt_against_it_is_left_out(make_model, database):
    path, here = make_model("tiny", "Q4_0"), machine()
    keep_calibration(database, here)

    def alone(use_calibration: bool) -> Figure:
        request = plan_request(Words(model=str(path)), overrides=Overrides())
        made = make_plan(request, machine=here, database=database, use_calibration=use_calibration)
        return made.plan.pick.speed.alone_tok_s

    with_it, without = alone(True), alone(False)
    lesson = Refinement()
    for _ in range(200):
        lesson.observe(1, 0.001, 0.002)
    lesson_keeper(here, path, learnt(here, path, database), database)(lesson.to_json())
    assert alone(True).value < 0.8 * with_it.value
    assert alone(False) == without


def test_a_calibration_of_the_processor_says_nothing_of_an_accelerator(database):
    card = Device("cuda0", "cuda", "a card", 24 * GIB, 23 * GIB, bandwidth_bytes_s=1e12)
    here = replace(machine(), devices=(card,))
    known = Learnt(calibration=keep_calibration(database, here))
    on_card = place_of(here, Overrides(), known)
    assert (on_card.source, on_card.is_here) == ("rough", True)
    assert on_card.calibration.bandwidth_bytes_s > 5e11
    assert "processor only" in on_card.guess_note
    on_cpu = place_of(here, Overrides(), known, gpu_layers=0)
    assert (on_cpu.source, on_cpu.calibration) == ("measured", known.calibration)
    guessed = place_of(here, Overrides(), Learnt(), gpu_layers=0)
    assert guessed.calibration.bandwidth_bytes_s < 1e11
    unusable = replace(here, devices=(replace(card, unusable="no backend"),))
    assert place_of(unusable, Overrides(), known).source == "measured"


def test_a_calibration_of_an_older_okno_costs_only_itself(make_model, database):
    path, here = make_model("tiny"), machine()
    made = keep_calibration(database, here)
    old = {**made.to_json(), "version": 1}
    save_calibration(database, CalibrationKey(here.fingerprint, engine_name(), 7), old, 9e9)
    assert learnt(here, path, database).calibration == made
    save_calibration(database, CalibrationKey(here.fingerprint, engine_name(), 2), old, 9e9)
    save_overhead(database, here.fingerprint, engine_name(), "process_bytes", 77 * MIB)
    known = learnt(here, path, database)
    assert known.calibration is None
    assert known.overhead.process_bytes == 77 * MIB
    assert "okno calibrate" in known.notes[0]


def test_in_a_container_the_row_is_that_of_its_limit(make_model, database):
    limited = replace(machine(), ram=Ram(64 * GIB, 7 * GIB, "cgroup", limit_bytes=8 * GIB))
    request = plan_request(Words(model=str(make_model("tiny"))), overrides=Overrides())
    found = make_plan(request, machine=limited, database=database)
    assert found.table.claim.memory_bytes == 8 * GIB


def test_the_depth_curve_bounds_the_window_of_quality(make_model, database):
    """Of 1,024 trained tokens, 512 were measured to be enough."""
    path = make_model("tiny")
    windows = tuple(
        WindowLoss(ctx, figure(bits), figure(0.0)) for ctx, bits in ((512, 5.0), (1024, 5.0))
    )
    positions = (PositionLoss(0, 1024, 1024, figure(5.0)),)
    curve = DepthCurve(
        model_identity(path), "tiny", "text", "my text", 1024, 2048, 2, 256, positions, windows
    )
    save_depth(database, curve.model, curve.text, to_document(curve))
    found = report(path, database, prefer="quality", prompt_tokens=64)
    assert found.plan.pick.load.window.ctx == 512
    assert "my text" in found.depth
    assert report(path, database, prefer="context").plan.pick.load.window.ctx == 1024


def test_nothing_learnt_leaves_the_defaults(database):
    assert learnt(machine(), None, database) == Learnt()
