"""Flags are the settings tree: every one is reachable, and reaches what it configures."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from okno.cli.app import load_command
from okno.cli.docs import page
from okno.cli.given_to_parts import server_settings, worker_options
from okno.cli.options import GivenFlags, SectionedCommand, default_of, with_settings
from okno.config.load import Loaded, merge
from okno.config.settings import ServeSettings, flag_of
from okno.core.errors import BadSetting, ModelNotFound
from okno.inspect.listing import LocalModel
from okno.inspect.models import demo_model
from tests.cli.support import ROOT

SAMPLES = {
    int: "17", int | None: "33", float: "2.5", float | None: "2.5", str: "text", str | None: "text",
    Path | None: "folder", tuple[str, ...]: "a.example",
}  # fmt: skip


def parsed(*args: str) -> Loaded:
    """The settings after `args` went through a real command."""
    caught: list[GivenFlags] = []

    @with_settings(*ServeSettings.model_fields, refuse_others=True)
    def command(given: GivenFlags) -> None:
        caught.append(given)

    serve = load_command("serve")
    app = typer.Typer(context_settings=serve.context_settings, rich_markup_mode=None)
    app.command(cls=SectionedCommand)(command)
    typer.main.get_command(app).main(list(args), prog_name="x", standalone_mode=False)
    return merge(caught[0], {})


def test_the_users_own_command_line():
    result = parsed("--model", "demo", "--batch_size", "1", "--ctx", "2048", "--load-in-8bit")
    settings = result.settings
    assert (settings.model, settings.batch_size, settings.ctx) == ("demo", 1, 2048)
    assert settings.load_in_8bit
    assert not result.notes


@pytest.mark.parametrize("name", ServeSettings.model_fields)
def test_every_name_of_every_setting_is_accepted(name):
    flag, kind = flag_of(name), ServeSettings.model_fields[name].annotation
    for spelling in (*flag.names, *flag.also):
        if kind is bool:
            switched = parsed(spelling.split("/")[-1]).settings
            assert getattr(switched, name) is ("/" not in spelling)
            continue
        choices = {"kv_type": "q8_0", "flash_attention": "on", "engine": "scripted",
                   "speculate": "off",
                   "log_level": "debug", "host": "::1", "prefer": "users",
                   "top_p": "0.5", "min_p": "0.5", "typical_p": "0.5",
                   "frequency_penalty": "0.5", "presence_penalty": "0.5",
                   "allowed_origin": "https://a.example"}  # fmt: skip
        value = choices.get(name) or SAMPLES[kind]
        assert getattr(parsed(spelling, value).settings, name) != getattr(ServeSettings(), name)


def test_underscores_count_as_dashes():
    assert parsed("--n_ctx", "64", "--ctx_size", "64", "--max_seq_len=64").settings.ctx == 64


def test_an_option_may_follow_its_value_closely():
    assert parsed("-c512", "-t2").settings.ctx == 512
    assert parsed("-ngl", "-1").settings.gpu_layers == -1


def test_both_meanings_of_one_setting_must_agree():
    assert parsed("--parallel", "3", "-np", "3").settings.batch_size == 3
    with pytest.raises(BadSetting, match="contradict each other"):
        parsed("--batch-size", "2", "--parallel", "3")


def test_an_alias_is_answered_with_its_meaning():
    assert parsed("--max_model_len", "64").notes == (
        "--max-model-len is taken as --ctx 64: tokens one request may see, prompt and answer "
        "together.",
    )


def test_an_option_of_the_command_itself_is_no_setting_whatever_it_is_called():
    """`okno depth --ctx` is no window: it has nothing to do with a kv_pool given elsewhere."""
    seen: list[object] = []

    @with_settings("threads")
    def command(given: GivenFlags, ctx: int | None = None) -> None:
        seen.extend([[name for name, _ in given], ctx])

    app = typer.Typer()
    app.command()(command)
    args = ["--ctx", "4096", "--threads", "2"]
    typer.main.get_command(app).main(args, prog_name="x", standalone_mode=False)
    assert seen == [["threads"], 4096]


def test_help_and_settings_agree_on_the_defaults():
    shown = {name: default_of(name) for name in ServeSettings.model_fields}
    assert shown["batch_size"] == shown["ctx"] == "auto"
    assert (shown["port"], shown["mmap"], shown["hang_timeout"]) == ("7860", "--no-mmap", "60")


MODEL = LocalModel("saiga", Path("/models/saiga.gguf"), 5)


def test_worker_options_carry_every_choice():
    options = worker_options(
        ServeSettings(batch_size=2, ctx=64, kv_pool=128, kv_type="q8_0", step_tokens=32, threads=3,
                      gpu_layers=5, mmap=True, flash_attention="on", queue_limit=7,
                      prefix_cache=False, trace=Path("t.json")),
        MODEL,
    )  # fmt: skip
    assert (options.model_path, options.name) == ("/models/saiga.gguf", "saiga")
    assert (options.batch_size, options.ctx, options.kv_pool_tokens) == (2, 64, 128)
    assert (options.kv_type, options.step_tokens, options.threads) == ("q8_0", 32, 3)
    assert (options.gpu_layers, options.mmap, options.flash_attention) == (5, True, "on")
    assert (options.queue_limit, options.prefix_cache, options.trace) == (7, False, True)


def test_auto_reaches_the_worker_as_auto():
    options = worker_options(ServeSettings(), MODEL)
    assert (options.batch_size, options.ctx, options.kv_pool_tokens) == (None, None, None)
    assert not options.trace


def test_speculation_reaches_the_worker():
    asked = ServeSettings(speculate="draft", draft="demo", draft_tokens=3)
    options = worker_options(asked, MODEL)
    assert (options.speculate, options.draft_tokens) == ("draft", 3)
    assert options.draft_path == str(demo_model().path)
    assert worker_options(ServeSettings(), MODEL).draft_path == ""


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (ServeSettings(speculate="draft"), "needs a draft model"),
        (ServeSettings(speculate="off", draft="demo"), "contradict each other"),
        (ServeSettings(speculate="lookup", draft="demo"), "contradict each other"),
        (ServeSettings(speculate="mtp", draft="demo"), "contradict each other"),
    ],
)
def test_a_draft_model_without_use_or_a_use_without_it_is_refused(asked, reason):
    with pytest.raises(BadSetting, match=reason):
        worker_options(asked, MODEL)


def test_a_draft_model_that_is_not_there_is_named():
    with pytest.raises(ModelNotFound, match="no-such"):
        worker_options(ServeSettings(draft="no-such"), MODEL)


def test_server_settings_carry_every_choice():
    server = server_settings(
        ServeSettings(alias="my-model", host="::1", port=81, api_key="k", allowed_host=("a",),
                      allowed_origin=("https://b",), drain_timeout=3),
        MODEL,
    )  # fmt: skip
    assert (server.model, server.aliases) == ("my-model", ("saiga",))
    assert (server.host, server.port, server.api_key) == ("::1", 81, "k")
    assert (server.allowed_hosts, server.allowed_origins) == (("a",), ("https://b",))
    assert server.drain_timeout_s == 3
    assert server.model_path == MODEL.path


def test_listen_reaches_the_server_as_every_address():
    assert server_settings(ServeSettings(listen=True, api_key="k"), MODEL).host == "0.0.0.0"


def test_docs_cli_md_is_generated_from_the_code():
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), "stale: run `python -m okno.cli.docs > docs/cli.md`"
