"""From settings to what the parts are given: one function each."""

from __future__ import annotations

from okno.config.settings import ServeSettings
from okno.engines.protocol import WorkerOptions
from okno.inspect.listing import LocalModel
from okno.server.settings import ServerSettings


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
        script=settings.script,
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
    )


def served_name(settings: ServeSettings, model: LocalModel | None) -> str:
    """The name in `/v1/models`: --alias, else the model's own."""
    return settings.alias or (model.name if model else settings.engine)
