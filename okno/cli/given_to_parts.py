"""From settings to what the parts are given: one function each."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from okno.advisor.learnt import Learnt
from okno.cli.obtaining import obtained
from okno.config.adapters import asked_adapters
from okno.config.explain import explain
from okno.config.load import Loaded
from okno.config.settings import ServeSettings
from okno.core.adapter import Adapter
from okno.core.errors import BadSetting
from okno.core.request import Sampling
from okno.engines.protocol import WorkerOptions
from okno.inspect.header import read_header
from okno.inspect.listing import LocalModel
from okno.inspect.models import models_folder
from okno.server.settings import GenerationDefaults, ServerSettings

GIB = 2**30


def worker_options(settings: ServeSettings, model: LocalModel | None) -> WorkerOptions:
    """What a worker needs to load `model` (None: the scripted engine, which loads no file)."""
    return WorkerOptions(
        model_path=str(model.path) if model else "",
        name=served_name(settings, model),
        engine=settings.engine,
        batch_size=settings.batch_size,
        ctx=settings.ctx,
        kv_pool_tokens=settings.kv_pool,
        kv_type=settings.kv_type,
        step_tokens=settings.step_tokens,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        mmap=settings.mmap,
        flash_attention=settings.flash_attention,
        queue_limit=settings.queue_limit,
        prefix_cache=settings.prefix_cache,
        swap_bytes=None if settings.swap_space is None else int(settings.swap_space * GIB),
        script=settings.script,
        prefer=settings.prefer,
        max_ttft_s=settings.max_ttft,
        min_tok_s=settings.min_tok_s,
        target_itl_s=settings.target_itl,
        trace=settings.trace is not None,
        speculate=settings.speculate,
        draft_path=draft_path(settings),
        draft_tokens=settings.draft_tokens,
        adapters=adapters(settings, model),
    )


def draft_path(settings: ServeSettings) -> str:
    """The file of the draft model; empty: none. Raises ModelNotFound, ModelUnusable, and BadSetting
    where --draft and --speculate contradict each other."""
    if settings.draft is None:
        if settings.speculate == "draft":
            raise BadSetting(
                "--speculate draft needs a draft model: give --draft NAME, or --speculate lookup."
            )
        return ""
    if settings.speculate in ("lookup", "mtp", "off"):
        raise BadSetting(
            f"--draft {settings.draft} and --speculate {settings.speculate} contradict each other: "
            "the draft model would be loaded for nothing. Leave one of them out."
        )
    return str(obtained(settings.draft, settings).path)


def adapters(settings: ServeSettings, model: LocalModel | None) -> tuple[Adapter, ...]:
    """The adapters of --lora as GGUF files that fit `model`, converted where that is needed. Raises
    ModelNotFound, ModelUnusable, DiskFull, BadSetting."""
    asked = asked_adapters(settings.lora)
    if not asked:
        return ()
    if model is None:
        raise BadSetting(f"--engine {settings.engine} loads no model that --lora could change.")
    from okno.convert.adapter import adapter_file

    base, models = read_header(model.path), models_folder(settings.models_dir)
    return tuple(adapter_file(adapter, models, base) for adapter in asked)


def with_learnt(options: WorkerOptions, learnt: Learnt) -> WorkerOptions:
    """`options` for a worker that plans with what was learnt of this machine."""
    known = learnt.calibration
    return msgspec.structs.replace(
        options,
        calibration=known.to_json() if known else None,
        refinement=learnt.refinement.to_json() if known else None,
        process_bytes=learnt.overhead.process_bytes,
    )


def server_settings(settings: ServeSettings, model: LocalModel | None) -> ServerSettings:
    """What the HTTP server is told. Raises BadSetting for a public address without a key."""
    name = served_name(settings, model)
    return ServerSettings(
        model=name,
        aliases=(model.name,) if model and model.name != name else (),
        host=settings.address,
        port=settings.port,
        api_key=settings.api_key,
        allowed_hosts=settings.allowed_host,
        allowed_origins=settings.allowed_origin,
        drain_timeout_s=settings.drain_timeout,
        defaults=generation_defaults(settings),
        models_dir=settings.models_dir,
        model_path=model.path if model else None,
    )


def with_config(server: ServerSettings, loaded: Loaded) -> ServerSettings:
    """`server` that can show where its settings come from."""
    file = str(loaded.file.absolute()) if loaded.file else None
    return replace(server, config=explain(loaded), config_file=file)


def generation_defaults(settings: ServeSettings) -> GenerationDefaults:
    """What requests get that do not say."""
    sampling = Sampling(
        temperature=settings.temperature if settings.do_sample else 0.0,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        typical_p=settings.typical_p,
        repetition_penalty=settings.repetition_penalty,
        penalty_last_n=settings.repeat_last_n,
        frequency_penalty=settings.frequency_penalty,
        presence_penalty=settings.presence_penalty,
        seed=settings.seed,
    )
    return GenerationDefaults(sampling, settings.max_new_tokens, settings.stop_strings)


def served_name(settings: ServeSettings, model: LocalModel | None) -> str:
    """The name in `/v1/models`: --alias, else the model's own."""
    return settings.alias or (model.name if model else settings.engine)
