"""Steps teach the planner: real steps of a real model against a calibration."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from okno.advisor.learnt import Learnt, learnt, lesson_keeper
from okno.core.load import Load
from okno.core.window import Window
from okno.engines.learning import StepLearner
from okno.inspect.hardware.machine import this_machine
from okno.inspect.header import read_header
from okno.inspect.models import demo_model
from okno.plan.refine import Refinement
from okno.plan.speed import Planner
from okno.plan.speed_model import SpeedModel
from okno.plan.speed_rough import rough_calibration
from okno.schedule.cost import Ahead
from okno.schedule.step import Span, Step
from okno.store.calibrations import CalibrationKey, save_calibration
from okno.store.database import Database
from tests.engines.drive import DEMO, ask, chat, running
from tests.plan.speed_cases import calibration
from tests.plan.speed_cases import header as knee_header


async def lesson(**changes):
    async with running(DEMO, **changes) as supervisor:
        await ask(supervisor, chat("Hello, who are you?", max_tokens=40))
        return (await supervisor.inspect()).refinement


async def test_a_calibrated_worker_learns_from_its_steps():
    calibration = rough_calibration(this_machine()).to_json()
    groups = await lesson(calibration=calibration)
    single_row = groups[0]
    assert single_row[0] >= 5  # decode steps of one row
    assert math.isfinite(single_row[1])
    assert single_row[1] != 0


def test_guesses_cost_their_rows_and_more_of_them_where_more_cells_are_seen():
    header = read_header(demo_model().path)
    planner = Planner(header, rough_calibration(this_machine()), Refinement())
    learner = StepLearner(planner.model(Load(Window(2, 4096, 8192))))

    def more_s(cells: int, guesses: int) -> float:
        ahead = Ahead(decodes=2, decode_cells=cells, used_cells=cells)
        return learner.seconds(ahead, 0, guesses) - learner.seconds(ahead, 0)

    assert 0 < more_s(200, 4) < more_s(200, 9)
    assert more_s(200, 64) < more_s(200_000, 64)
    assert more_s(200, 0) == 0


def test_a_step_is_predicted_and_learnt_with_the_rows_that_fill_it():
    model = SpeedModel(knee_header(), calibration())
    plain, filling = StepLearner(model), StepLearner(model, fills=True)
    ahead = Ahead(decodes=3, decode_cells=300, used_cells=300)
    assert (plain.spare_rows(ahead, 0), filling.spare_rows(ahead, 0)) == (0, 1)
    assert filling.seconds(ahead, 0) < plain.seconds(ahead, 0)
    one = np.array([5], dtype=np.int32)
    step = Step((), tuple(Span(id, k, 100, one, 1) for k, id in enumerate("abc")))
    assert (plain.filler(step, 300), filling.filler(step, 300)) == (0, 1)
    filling.learn(replace(step, filler=1), 300, 2 * filling.seconds(ahead, 0))
    weights = [group[0] for group in filling.refinement.to_json()]
    assert weights[:4] == [0, 0, 1, 0]  # of 4 to 7 rows


async def test_what_was_learnt_before_goes_on():
    calibration = rough_calibration(this_machine()).to_json()
    first = await lesson(calibration=calibration)
    second = await lesson(calibration=calibration, refinement=first)
    assert second[0][0] > first[0][0]


async def test_a_worker_without_a_calibration_learns_nothing():
    assert await lesson() is None


def test_a_lesson_counts_for_the_calibration_it_was_learnt_against(tmp_path):
    database, machine = Database(tmp_path / "okno.db"), this_machine()
    model = demo_model().path
    calibrate(database, machine, "2026-01-01T00:00:00+00:00")
    known = learnt(machine, model, database)
    groups = [[20.0, 0.3, 0.01], *[[0.0, 0.0, 0.03]] * 21]
    lesson_keeper(machine, model, known, database)(groups)
    kept = learnt(machine, model, database).refinement.to_json()
    assert kept[0] == [20.0, pytest.approx(0.3, rel=0.01), 0.01]
    assert [weight for weight, *_ in kept[1:]] == [0.0] * 21
    calibrate(database, machine, "2026-02-02T00:00:00+00:00")
    assert learnt(machine, model, database).refinement == Refinement()


def test_without_a_calibration_there_is_nothing_to_keep(tmp_path):
    database = Database(tmp_path / "okno.db")
    assert lesson_keeper(this_machine(), demo_model().path, Learnt(), database) is None


def calibrate(database, machine, created):
    from dataclasses import replace

    from okno.inspect.hardware.engine import engine_name

    made = replace(rough_calibration(machine), kind="measured", created=created)
    key = CalibrationKey(machine.fingerprint, engine_name(), machine.cpu.usable_cores)
    save_calibration(database, key, made.to_json())
