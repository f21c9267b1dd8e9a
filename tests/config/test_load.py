"""Settings: one tree, three sources, strict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.config.load import Given, Loaded, env_name, merge
from okno.config.refused import REFUSED
from okno.config.settings import ServeSettings, flag_of
from okno.core.errors import BadSetting


def flags(*values: tuple[str, str, object]) -> list[tuple[str, Given]]:
    """(field, spelling, value) as the command line gives them."""
    return [(name, Given(value, "command line", spelled)) for name, spelled, value in values]


def loaded(*values: tuple[str, str, object], **environment: str) -> Loaded:
    return merge(flags(*values), environment)


def refusal(*values: tuple[str, str, object], **environment: str) -> str:
    with pytest.raises(BadSetting) as caught:
        loaded(*values, **environment)
    return caught.value.message


def test_nothing_given_means_the_defaults_with_batch_and_ctx_auto():
    result = loaded()
    assert result.settings == ServeSettings()
    assert (result.settings.batch_size, result.settings.ctx) == (None, None)
    assert result.source("ctx") == "default"
    assert not result.notes


def test_command_line_beats_environment_beats_default():
    result = loaded(("ctx", "--ctx", "2048"), OKNO_CTX="512", OKNO_BATCH_SIZE="3")
    assert (result.settings.ctx, result.settings.batch_size) == (2048, 3)
    assert result.source("ctx") == "command line"
    assert result.source("batch_size") == "environment"
    assert result.source("port") == "default"
    assert result.given["batch_size"].spelled == "OKNO_BATCH_SIZE"


def test_the_word_auto_overrides_an_environment_number():
    result = loaded(("batch_size", "--batch-size", "auto"), OKNO_BATCH_SIZE="3")
    assert result.settings.batch_size is None


def test_an_empty_variable_counts_as_not_set():
    assert loaded(OKNO_CTX="").settings.ctx is None


def test_every_setting_can_be_given_by_environment():
    for name in ServeSettings.model_fields:
        default = getattr(ServeSettings(), name)
        if isinstance(default, bool):
            value = "false" if default else "true"
            assert getattr(loaded(**{env_name(name): value}).settings, name) is not default


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        ServeSettings().ctx = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("ctx", "--ctx", "1"), "--ctx 1: it must be at least 16."),
        (("ctx", "--n-ctx", "many"), "--n-ctx many: it must be a whole number."),
        (("batch_size", "--batch-size", "0"), "--batch-size 0: it must be at least 1."),
        (("ctx", "--ctx", "99999999"), "--ctx 99999999: it must be at most 16,777,216."),
        (
            ("hang_timeout", "--hang-timeout", "1e6"),
            "--hang-timeout 1e6: it must be at most 86,400.",
        ),
        (("port", "--port", "70000"), "--port 70000: it must be at most 65,535."),
        (("hang_timeout", "--hang-timeout", "0"), "--hang-timeout 0: it must be more than 0."),
        (("hang_timeout", "--hang-timeout", "nan"), "--hang-timeout nan: it must be a number."),
        (("model", "--model", ""), "--model : it must not be empty."),
        (
            ("kv_type", "--kv-type", "q9"),
            "--kv-type q9: it must be 'f16', 'bf16', 'f32', 'q8_0' or 'q4_0'.",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_spelling_used_and_the_rule(values, message):
    assert refusal(values) == message


def test_a_bad_variable_is_named_as_a_variable():
    assert refusal(OKNO_CTX="5") == "OKNO_CTX=5: it must be at least 16."
    assert refusal(OKNO_MMAP="perhaps") == "OKNO_MMAP=perhaps: it must be true or false."


def test_a_batch_size_of_another_program_is_refused_with_the_explanation():
    message = refusal(("batch_size", "--batch-size", "512"))
    assert "at most 256" in message
    assert "llama-server --batch-size means prompt tokens per step" in message
    assert "--step-tokens" in message


def test_256_is_still_a_batch_size():
    assert loaded(("batch_size", "--batch-size", "256")).settings.batch_size == 256


def test_an_alias_says_which_meaning_was_taken():
    result = loaded(("batch_size", "--parallel", "4"))
    assert result.notes == ("--parallel is taken as --batch-size 4: sequences decoded at once.",)


def test_our_own_names_say_nothing():
    assert not loaded(("ctx", "-c", "512"), ("model", "-m", "demo")).notes


def test_flags_that_are_only_accepted_say_so():
    assert loaded(("metrics", "--metrics", True)).notes == ("--metrics: /metrics is always on.",)


def test_two_spellings_with_different_values_are_refused():
    message = refusal(("kv_type", "-ctk", "q8_0"), ("kv_type", "-ctv", "q4_0"))
    assert message.startswith("-ctk q8_0 and -ctv q4_0 contradict each other: both set --kv-type.")


def test_two_spellings_with_one_value_agree():
    result = loaded(("kv_type", "-ctk", "q8_0"), ("kv_type", "-ctv", "q8_0"))
    assert result.settings.kv_type == "q8_0"


def test_a_misspelt_variable_is_refused_with_the_nearest_name():
    assert refusal(OKNO_BACTH_SIZE="4") == (
        "OKNO_BACTH_SIZE is not a setting. Did you mean OKNO_BATCH_SIZE?"
    )


def test_a_strange_okno_variable_is_only_noted():
    result = loaded(OKNO_WORKSHOP_COLOUR="blue", PATH="x")
    assert not loaded(OKNO_AMX="1").notes, "the engine reads it"
    assert result.notes == ("OKNO_WORKSHOP_COLOUR is not a setting of this version; ignored.",)


def test_listen_means_every_address_unless_another_is_named():
    listen = ("listen", "--listen", True)
    assert loaded(listen).settings.address == "0.0.0.0"
    named = loaded(listen, ("host", "--host", "192.0.2.7"))
    assert named.settings.address == "192.0.2.7"
    assert loaded().settings.address == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_listen_and_a_host_of_this_machine_contradict_each_other(host):
    message = refusal(("listen", "--listen", True), ("host", "--host", host))
    assert "contradict each other" in message
    assert "every address (0.0.0.0)" in message
    assert host.strip("[]") in message


def test_brackets_around_an_address_are_only_spelling():
    assert loaded(("host", "--host", "[::1]")).settings.address == "::1"
    assert loaded(("host", "--host", "::1")).settings.address == "::1"


@pytest.mark.parametrize("host", ["localhost:8080", "[::1]:80", "http://x", "127.0.0.1/"])
def test_a_host_with_more_than_a_host_is_refused(host):
    assert "the port goes to --port" in refusal(("host", "--host", host))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://page.example", "http://page.example"),
        ("http://page.example/", "http://page.example"),
        ("HTTPS://Page.Example:443", "https://page.example"),
        ("https://page.example:8443", "https://page.example:8443"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("https://пример.рф", "https://xn--e1afmkfd.xn--p1ai"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("*", "*"),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(given, kept):
    origins = loaded(("allowed_origin", "--allowed-origin", [given])).settings.allowed_origin
    assert origins == (kept,)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("foo", "'foo' is no origin: give one such as https://page.example"),
        ("null", "is no origin"),
        ("page.example:80", "is no origin"),
        ("https://", "is no origin"),
        ("https://me@page.example", "is no origin"),
        ("https://page.example:port", "is no origin"),
        ("https://*.example", "'*.example' is not a host name"),
        ("http://page.example/app", "an origin ends after the host: give http://page.example"),
        ("", "is no origin"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(given, reason):
    assert reason in refusal(("allowed_origin", "--allowed-origin", [given]))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("LLM.Example.", "llm.example"),
        ("llm.example:8080", "llm.example:8080"),
        ("my_box", "my_box"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("окно.рф", "xn--j1agbc.xn--p1ai"),
    ],
)
def test_a_host_name_is_kept_as_clients_send_it(given, kept):
    hosts = loaded(("allowed_host", "--allowed-host", [given])).settings.allowed_host
    assert hosts == (kept,)


@pytest.mark.parametrize("given", ["http://x/", "x/", "x:port", "*", "a b", "", "a@b", "x?"])
def test_a_host_name_that_no_client_sends_is_refused(given):
    assert "is not a host" in refusal(("allowed_host", "--allowed-host", [given]))


def test_a_pool_smaller_than_one_window_is_refused_with_both_numbers():
    message = refusal(("ctx", "--ctx", "2048"), ("kv_pool", "--kv-pool", "1024"))
    assert "--kv-pool 1024 is smaller than --ctx 2048" in message


def test_a_secret_is_never_shown():
    message = refusal(("api_key", "--api-key", "s3cret"), ("api_key", "--api-key", "0ther-key"))
    assert "s3cret" not in message
    assert "0ther-key" not in message
    assert "x" * 100 not in refusal(OKNO_API_KEY="x" * 5000)


def test_hosts_and_origins_come_as_lists_or_comma_separated():
    assert loaded(OKNO_ALLOWED_HOST="a.example, b.example,").settings.allowed_host == (
        "a.example", "b.example",
    )  # fmt: skip
    many = loaded(("allowed_host", "--allowed-host", ["a", "b"]))
    assert many.settings.allowed_host == ("a", "b")


def test_no_spelling_means_two_things():
    spellings = [
        part
        for name in ServeSettings.model_fields
        for flag in (*flag_of(name).names, *flag_of(name).also)
        for part in flag.split("/")
    ] + [name for refused in REFUSED for name in refused.names]
    assert len(spellings) == len(set(spellings))
    assert not [spelling for spelling in spellings if "_" in spelling]


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(ServeSettings.model_fields)),
    value=st.text(max_size=200) | st.integers().map(str),
)
def test_any_text_gives_settings_or_a_refusal_of_one_printable_line(name, value):
    message = ""
    try:
        loaded((name, flag_of(name).long, value))
    except BadSetting as error:
        message = error.message
    assert message.isprintable()
    assert len(message) < 400
