"""GET /okno/v1/hardware."""

from __future__ import annotations

import threading

import httpx
import pytest

from okno.core.machine import Cpu, Machine, Ram
from okno.inspect.hardware.machine import Survey
from okno.server import hardware
from okno.server.hardware import KEEP_S, RecentSurvey

GIB = 1 << 30
MACHINE = Machine("Linux", Cpu("Test CPU", "x86_64", 4, 8, 4), Ram(32 * GIB, 20 * GIB))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every time the machine was looked at, and whether the engine was asked."""
    seen: list[bool] = []

    def look(engine: bool) -> Survey:
        assert threading.current_thread() is not threading.main_thread()
        seen.append(engine)
        return Survey(MACHINE, ("a note",))

    monkeypatch.setattr(hardware, "recent", RecentSurvey(look))
    return seen


async def test_it_is_the_machine_with_its_bounds(client: httpx.AsyncClient, looks: object) -> None:
    answer = await client.get("/okno/v1/hardware")
    assert answer.status_code == 200
    body = answer.json()
    assert body["machine"]["ram"]["free_bytes"] == 20 * GIB
    assert body["machine"]["fingerprint"] == MACHINE.fingerprint
    assert body["bound"].startswith("A model runs on the CPU")
    assert (body["engine"], body["notes"]) == (None, ["a note"])


async def test_who_asks_often_gets_the_same_answer(
    client: httpx.AsyncClient, looks: list[bool]
) -> None:
    for _ in range(5):
        await client.get("/okno/v1/hardware")
    assert looks == [False]
    await client.get("/okno/v1/hardware", params={"engine": "true"})
    assert looks == [False, True]


def test_an_answer_is_kept_for_a_while_and_then_looked_up_again() -> None:
    clock, looked = Clock(), []
    recent = RecentSurvey(lambda engine: looked.append(engine) or Survey(MACHINE), clock)
    recent.get(False)
    clock.now_s = KEEP_S
    recent.get(False)
    assert len(looked) == 1
    clock.now_s = KEEP_S + 0.1
    recent.get(False)
    assert len(looked) == 2


async def test_query_parameters_are_a_what_if(client: httpx.AsyncClient, looks: list[bool]) -> None:
    asked = {"memory": "8GB", "device": "cuda", "bandwidth": "300GB/s", "cores": "2"}
    body = (await client.get("/okno/v1/hardware", params=asked)).json()
    (device,) = body["machine"]["devices"]
    assert (device["total_bytes"], device["bandwidth_bytes_s"]) == (8 * GIB, 3e11)
    assert body["machine"]["cpu"]["usable_cores"] == 2
    assert any("assumed" in line for line in body["machine"]["overrides"])
    plain = (await client.get("/okno/v1/hardware")).json()
    assert plain["machine"]["devices"] == [], "a what-if is nobody else's machine"


@pytest.mark.parametrize(
    ("query", "param", "said"),
    [
        ("memory=8", "memory", "such as 8GB"),
        ("memori=8GB", "memori", "the nearest is `memory`"),
        ("memory=8GB&memory=9GB", "memory", "twice"),
        ("engine=perhaps", "engine", "true or false"),
        ("device=rocm", "device", "has none"),
        ("device=", "device", "empty"),
        ("cores=0", "cores", "whole number"),
        ("free=99GB", "free", "more than the memory there"),
    ],
)
async def test_a_wrong_parameter_is_named(
    client: httpx.AsyncClient, looks: object, query: str, param: str, said: str
) -> None:
    answer = await client.get(f"/okno/v1/hardware?{query}")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert "--" not in error["message"]


async def test_the_real_machine_answers(client: httpx.AsyncClient) -> None:
    body = (await client.get("/okno/v1/hardware")).json()
    assert body["machine"]["ram"]["total_bytes"] > 0
