from __future__ import annotations

import pytest

from okno.engines import amx

WITH = "processor : 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n"
WITHOUT = "processor : 0\nmodel name : amx_tile\nflags\t\t: fpu avx512f amx_tiles\n"


def test_amx_is_seen_in_the_processor_flags() -> None:
    assert amx.machine_has_amx(WITH)
    assert not amx.machine_has_amx(WITHOUT)


def test_a_user_may_have_amx_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKNO_AMX", "1")
    monkeypatch.setattr(amx, "machine_has_amx", lambda: True)
    assert not amx.refuse_amx()


def test_nothing_is_done_on_a_machine_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "machine_has_amx", lambda: False)
    monkeypatch.setattr(amx, "_ask_for_weight_buffers", lambda: pytest.fail("asked"))
    assert not amx.refuse_amx()
