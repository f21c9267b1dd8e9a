"""`POST /okno/v1/plan` and `GET /okno/v1/recommend`: what the commands of these names answer.

A request names models only by name: no path and no address is opened for it. Plans run one at a
time in a thread, so that they neither block streams nor take every core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePath
from typing import Annotated, TypeVar

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.errors import BadRequest, BadSetting, ModelNotFound, NotReady
from okno.core.machine import Device, Machine
from okno.core.window import MemoryUse
from okno.engines.client import EngineStatus
from okno.inspect.hardware.asked import FIELDS as WHAT_IF
from okno.inspect.hardware.asked import overrides_from
from okno.plan.goals import DEFAULT_MAX_TTFT_S, DEFAULT_MIN_TOK_S, DEFAULT_PROMPT_TOKENS, MEANING
from okno.server.context import Context
from okno.server.errors import JSONBytes
from okno.server.query import parameters
from okno.server.schemas import about

T = TypeVar("T")

RECOMMEND = ("task", "language", "licence", "top", "prefer", "max_ttft_s", "min_tok_s",
             "prompt_tokens", *WHAT_IF)  # fmt: skip
MOST_LAYERS = 100_000  # as --gpu-layers
RETRY_AFTER_S = 2
_planner = ThreadPoolExecutor(1, thread_name_prefix="okno-plan")


class PlanFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A question to the planner. null means: as if left out."""

    model: Annotated[
        str | None,
        about(
            "A name in the models folder, `demo`, or a model of the catalog. Left out or "
            "`default`: the served model, planned as if it were not loaded."
        ),
    ] = None
    quant: Annotated[
        str | None, about("Another quantisation: `q4_k_m`, `gptq-4bit`; `auto` for the finest.")
    ] = None
    batch_size: Annotated[int | str | None, about("1 to 256, or `auto` (default).")] = None
    ctx: Annotated[int | str | None, about("Tokens, or `auto` (default).")] = None
    kv_type: Annotated[
        str | None, about("Of the KV cache; `auto` (default): f16, fewer bits where needed.")
    ] = None
    prefer: Annotated[str | None, about(f"{', '.join(MEANING)}; default speed.")] = None
    max_ttft_s: Annotated[
        float | None,
        about(
            "Limit on the first token of the last of batch_size prompts at once; default "
            f"{DEFAULT_MAX_TTFT_S:g}."
        ),
    ] = None
    min_tok_s: Annotated[
        float | None, about(f"Least tokens/s for each user; default {DEFAULT_MIN_TOK_S:g}.")
    ] = None
    prompt_tokens: Annotated[
        int | None, about(f"Length of a prompt; default {DEFAULT_PROMPT_TOKENS}.")
    ] = None
    fill_tokens: Annotated[
        int | None, about("Tokens in each window when rates are judged; default: the prompt's.")
    ] = None
    memory: Annotated[str | None, about("What if: `8GB` of memory.")] = None
    device: Annotated[str | None, about("What if: `cpu`, `cuda`, ..., or `RTX 4090`.")] = None
    bandwidth: Annotated[str | None, about("What if: `300GB/s` of memory bandwidth.")] = None
    cores: Annotated[str | None, about("What if: this many CPU cores.")] = None
    free: Annotated[str | None, about("What if: this much of the memory is free.")] = None
    gpu_layers: Annotated[
        int | None, about("Layers on the accelerator, -1 (default: all) to 100,000.")
    ] = None
    mmap: Annotated[bool | None, about("Map the file instead of reading it; default false.")] = None


async def plan(context: Context, request: HTTPRequest) -> Response:
    """The grid, the pick and why, the advice."""
    fields = await context.read(request, PlanFields)
    return JSONBytes(await _in_a_thread(lambda: _plan(context, fields)))


async def recommend(context: Context, request: HTTPRequest) -> Response:
    """The catalog, ranked by what this hardware gives."""
    asked = parameters(request, RECOMMEND)
    return JSONBytes(await _in_a_thread(lambda: _recommend(context, asked)))


async def _in_a_thread(work: Callable[[], T]) -> T:
    """`work`, after what was asked before; a setting out of range is the request's fault."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_planner, work)
    except BadSetting as error:
        param = (error.info.param or "").removeprefix("--")
        raise BadRequest(error.message.replace("--", ""), param=param or None) from None


def _plan(context: Context, fields: PlanFields) -> dict[str, object]:
    from okno.advisor.planning import make_plan
    from okno.advisor.report import as_json
    from okno.advisor.request import Words, load_template, plan_request

    status = context.engine.status()
    model, by_name = which_model(context, status, fields.model)
    words = Words(
        model=model, quant=fields.quant, batch_size=fields.batch_size,
        ctx=fields.ctx, kv_type=fields.kv_type, prefer=fields.prefer or "speed",
        max_ttft=fields.max_ttft_s, min_tok_s=fields.min_tok_s,
        prompt_tokens=fields.prompt_tokens, fill=fields.fill_tokens,
    )  # fmt: skip
    overrides = overrides_from({name: getattr(fields, name) for name in WHAT_IF}, prefix="")
    template = load_template(mmap=bool(fields.mmap), gpu_layers=_gpu_layers(fields.gpu_layers))
    asked = plan_request(
        words, overrides=overrides, models_dir=context.settings.models_dir, template=template,
        by_name=by_name, beside=None if by_name else context.settings.beside,
    )  # fmt: skip
    return {"object": "okno.plan", **as_json(make_plan(asked, machine=here(status)))}


def _gpu_layers(asked: int | None) -> int:
    if asked is None:
        return -1
    if not -1 <= asked <= MOST_LAYERS:
        raise BadRequest(
            f"`gpu_layers` is {asked}; it is -1 (every layer) to {MOST_LAYERS:,}.",
            param="gpu_layers",
        )
    return asked


def which_model(context: Context, status: EngineStatus, asked: str | None) -> tuple[str, bool]:
    """The model that is asked about, and whether that is a name: the served one is its file.

    Raises NotReady while the served one loads and only the engine knows its file, ModelNotFound
    when it has none (the scripted engine).
    """
    path = status.facts.path if status.facts else str(context.settings.model_path or "")
    if asked and asked not in ("default", *context.names(), PurePath(path).stem):
        return asked, True
    if path:
        return path, False
    name = context.settings.model
    if status.facts is None:
        raise NotReady(
            f"{name} is not loaded yet, and its file is not known before. Try again shortly, or "
            "name another model.",
            param="model", retry_after_s=RETRY_AFTER_S,
        )  # fmt: skip
    raise ModelNotFound(
        f"{name}, which is served here, has no file that could be planned. Name a model: one of "
        "the models folder, `demo`, or one of the catalog.",
        param="model",
    )


def here(status: EngineStatus) -> Machine:
    """This machine; what the loaded model holds counts as free, because another window would
    replace it. While none is loaded, or its worker died, nothing is held."""
    from okno.advisor.planning import this_machine

    machine = this_machine()
    if status.state != "ready" or status.memory is None:
        return machine
    return without(machine, status.memory)


def without(machine: Machine, held: MemoryUse) -> Machine:
    """`machine` as it would be without the worker that holds `held`. What it holds on a unified
    device is main memory too; Metal's buffers are among the process's own bytes already."""
    on_devices = [(device, held.device_bytes.get(device.id, 0)) for device in machine.devices]
    shared = sum(n for device, n in on_devices if device.unified and device.kind != "metal")
    free_bytes = min(machine.ram.total_bytes, machine.ram.free_bytes + held.own_bytes + shared)
    return replace(
        machine,
        ram=replace(machine.ram, free_bytes=free_bytes),
        devices=tuple(_freed(device, n_bytes) for device, n_bytes in on_devices),
    )


def _freed(device: Device, held_bytes: int) -> Device:
    if device.free_bytes is None:
        return device
    free_bytes = min(device.total_bytes, device.free_bytes + held_bytes)
    return replace(device, free_bytes=free_bytes)


def _recommend(context: Context, asked: dict[str, str]) -> dict[str, object]:
    from okno.advisor.recommending import DEFAULT_TOP, RecommendRequest, as_json
    from okno.advisor.recommending import recommend as find_best
    from okno.advisor.request import Words, count_of, goal_of

    goal = goal_of(
        Words(
            prefer=asked.get("prefer", "speed"), max_ttft=asked.get("max_ttft_s"),
            min_tok_s=asked.get("min_tok_s"), prompt_tokens=asked.get("prompt_tokens"),
        )
    )  # fmt: skip
    top = count_of("top", asked.get("top"))
    wanted = RecommendRequest(
        asked.get("task", "chat"), asked.get("language"), asked.get("licence"),
        DEFAULT_TOP if top is None else top, goal, overrides_from(asked, prefix=""),
    )  # fmt: skip
    found = find_best(wanted, machine=here(context.engine.status()))
    return {"object": "okno.recommendation", **as_json(found)}
