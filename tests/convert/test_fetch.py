"""Downloads: whole, cut, resumed, checked, refused; against a hub on this machine."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from okno.cli.offer import download_lines
from okno.convert.fetch import fetch
from okno.convert.fetch_plan import FetchPlan, plan_fetch
from okno.core.errors import (
    AccessDenied,
    DiskFull,
    ModelNotFound,
    ModelUnusable,
    OknoError,
    SourceUnreachable,
)
from okno.inspect.hub_cache import find_cached
from okno.inspect.listing import Checkpoint
from okno.inspect.models import demo_model
from okno.inspect.source_hub import Reference, open_reference, parse_reference
from tests.cli.support import OKNO, clean_environment
from tests.convert.hub import Hub, Repo, digest_of, serving
from tests.convert.small import small_files

MIB = 1024 * 1024
LONG_BYTES = 24 * MIB  # more than two of the pieces that huggingface_hub writes at once
Q4, Q8 = b"GGUF" + bytes(8000), b"GGUF" + bytes(range(256)) * 40
CONFIG = b'{"model_type": "llama"}'


def noise(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def checkpoint(**more: bytes) -> dict[str, bytes]:
    """A sharded checkpoint with everything that people put beside one."""
    files = {
        "README.md": b"# Saiga", "config.json": CONFIG, "tokenizer.json": noise(5000),
        "tokenizer_config.json": b"{}", "generation_config.json": b"{}",
        "model.safetensors.index.json": b"{}", "pytorch_model.bin": noise(9000),
        "model-00001-of-00002.safetensors": noise(7000, 2),
        "model-00002-of-00002.safetensors": noise(6000, 3), "runs/events.out": b"x",
        "consolidated.safetensors": noise(6500),
    }  # fmt: skip
    return files | more


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub cache"


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    found = Hub({
        "owner/plain-GGUF": Repo({"saiga.Q4_K_M.gguf": Q4, "README.md": b"#", "x.bin": b"x"}),
        "owner/many-GGUF": Repo({"s.Q4_K_M.gguf": Q4, "s.Q8_0.gguf": Q8, "mmproj-s.gguf": Q4}),
        "owner/split-GGUF": Repo({
            "q8/s.Q8_0-00001-of-00002.gguf": Q8, "q8/s.Q8_0-00002-of-00002.gguf": Q4,
            "s.Q4_0.gguf": Q4,
        }),
        "owner/saiga": Repo(checkpoint()),
        "owner/long-GGUF": Repo({"long.gguf": b"GGUF" + noise(LONG_BYTES)}),
    })  # fmt: skip
    with serving(found):
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield found


def plan_of(asked: str, cache: Path) -> FetchPlan:
    reference = parse_reference(asked)
    assert reference is not None
    return plan_fetch(reference, cache)


def get(asked: str, cache: Path) -> Path:
    return fetch(plan_of(asked, cache))


def test_a_repository_with_one_gguf_brings_that_file_alone(hub, cache):
    path = get("owner/plain-GGUF", cache)
    assert path.read_bytes() == Q4
    assert path.name == "saiga.Q4_K_M.gguf"
    assert hub.fetched() == {"saiga.Q4_K_M.gguf"}


def test_the_plan_says_what_would_come_before_anything_does(hub, cache):
    plan = plan_of("owner/many-GGUF:Q8_0", cache)
    assert [file.name for file in plan.files] == ["s.Q8_0.gguf"]
    assert plan.total_bytes == plan.missing_bytes == len(Q8)
    assert hub.fetched() == set()
    fetch(plan)
    assert plan.missing_bytes == 0


def test_a_quantisation_is_chosen_by_its_name_in_either_order_with_a_revision(hub, cache):
    for asked in ("owner/many-GGUF:q8_0", "owner/many-GGUF:Q8_0@main", "owner/many-GGUF@main:Q8_0"):
        assert get(asked, cache).read_bytes() == Q8
    assert get("owner/many-GGUF/s.Q4_K_M.gguf", cache).read_bytes() == Q4


def test_a_quantisation_called_just_so_wins_over_longer_names(hub, cache):
    files = hub.repos["owner/many-GGUF"].files
    files["s.Q4_K_S.gguf"] = Q8
    with pytest.raises(ModelNotFound, match="has 2 models, so say which: s"):
        plan_of("owner/many-GGUF:q4_k", cache)
    files["s-q4_K.gguf"] = Q8
    assert get("owner/many-GGUF:q4_k", cache).name == "s-q4_K.gguf"
    get("owner/many-GGUF:q4_k_m", cache)
    (found,) = find_cached(Reference("owner", "many-GGUF", quant="Q4_K"), cache)
    assert found.path.name == "s-q4_K.gguf"


def test_several_models_without_a_choice_are_listed_with_their_sizes(hub, cache):
    with pytest.raises(ModelNotFound) as caught:
        plan_of("owner/many-GGUF", cache)
    assert "has 2 models, so say which: s.Q4_K_M.gguf (1 MiB), s.Q8_0" in caught.value.message
    assert "Give owner/many-GGUF:QUANT" in caught.value.message
    with pytest.raises(ModelNotFound, match="none of which is IQ1_S: s"):
        plan_of("owner/many-GGUF:IQ1_S", cache)


def test_all_parts_of_a_split_model_come(hub, cache):
    path = get("owner/split-GGUF:Q8_0", cache)
    assert path.name == "s.Q8_0-00001-of-00002.gguf"
    assert path.with_name("s.Q8_0-00002-of-00002.gguf").read_bytes() == Q4
    assert len(hub.fetched()) == 2


def test_a_split_model_that_its_publisher_left_incomplete_is_refused(hub, cache):
    del hub.repos["owner/split-GGUF"].files["q8/s.Q8_0-00002-of-00002.gguf"]
    with pytest.raises(ModelUnusable, match=r"lacks q8/s.Q8_0-00002-of-00002.gguf"):
        plan_of("owner/split-GGUF:Q8_0", cache)
    del hub.repos["owner/saiga"].files["model-00002-of-00002.safetensors"]
    with pytest.raises(ModelUnusable, match=r"lacks model-00002-of-00002.safetensors"):
        plan_of("owner/saiga", cache)


def test_a_checkpoint_brings_weights_config_and_tokenizer_and_never_a_pickle(hub, cache):
    folder = get("owner/saiga", cache)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "generation_config.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert (cache / "models--owner--saiga/refs/main").read_text() == "c" * 40
    (found,) = find_cached(Reference("owner", "saiga"), cache)
    assert isinstance(found, Checkpoint)
    assert found.size_bytes == 13_000


def test_a_repository_of_pickles_is_refused_with_the_reason(hub, cache):
    hub.repos["owner/old"] = Repo({"config.json": CONFIG, "pytorch_model.bin": noise(5000)})
    with pytest.raises(ModelUnusable) as caught:
        plan_of("owner/old", cache)
    assert "pickles (.bin), which can run any program" in caught.value.message
    assert "Take a repository of the same model" in caught.value.message


def test_several_weights_of_no_usual_name_are_listed(hub, cache):
    files = {"config.json": CONFIG, "a.safetensors": Q4, "b.safetensors": Q8}
    hub.repos["owner/two"] = Repo(files)
    with pytest.raises(ModelNotFound, match=r"several weights: a.safetensors, b.safetensors. Say"):
        plan_of("owner/two", cache)
    assert get("owner/two/b.safetensors", cache).joinpath("b.safetensors").read_bytes() == Q8


def test_a_revision_brings_its_own_commit(hub, cache):
    hub.repos["owner/plain-GGUF"].revisions = {"v1": "1" * 40}
    assert get("owner/plain-GGUF@v1", cache).parent.name == "1" * 40
    with pytest.raises(ModelNotFound, match=r"has no revision 'v2'. Give a branch, a tag"):
        plan_of("owner/plain-GGUF@v2", cache)


def test_what_is_here_is_not_fetched_again(hub, cache):
    get("owner/saiga", cache)
    hub.asked.clear()
    get("owner/saiga", cache)
    assert hub.fetched() == set()


def test_a_damaged_file_in_the_cache_is_replaced(hub, cache):
    path = get("owner/plain-GGUF", cache)
    path.write_bytes(Q4[:-1] + b"!")
    assert get("owner/plain-GGUF", cache).read_bytes() == Q4


def test_a_cut_connection_goes_on_where_it_was(hub, cache):
    hub.cut_at = 15 * MIB
    path = get("owner/long-GGUF", cache)
    assert path.read_bytes() == hub.repos["owner/long-GGUF"].files["long.gguf"]
    first, second = hub.ranges()
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) >= 10 * MIB


def test_a_file_that_arrives_changed_is_thrown_away_and_said(hub, cache):
    hub.flips = True
    for asked in ("owner/plain-GGUF", "owner/saiga"):  # SHA-256, and git's SHA-1 of a small one
        with pytest.raises(SourceUnreachable, match=r"another checksum\), so it was thrown away"):
            get(asked, cache)
    assert not [path for path in cache.rglob("blobs/*") if path.is_file()]
    hub.flips = False
    assert get("owner/plain-GGUF", cache).read_bytes() == Q4


def test_a_full_disk_is_said_before_a_byte_is_asked_for(hub, cache):
    plan = plan_of("owner/long-GGUF", cache)
    with pytest.raises(DiskFull) as caught:
        fetch(plan, free_bytes=80 * MIB)
    assert "needs 24 MiB in" in caught.value.message
    assert "and 80 MiB are free there" in caught.value.message
    assert "okno rm NAME" in caught.value.message
    assert hub.fetched() == set()
    fetch(plan, free_bytes=90 * MIB)


def test_a_disk_that_becomes_full_meanwhile_is_said(hub, cache, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="became full during the download of owner/plain-GGUF"):
        get("owner/plain-GGUF", cache)


def test_the_token_is_shown_to_the_hub_and_to_nobody_else(hub, cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    hub.repos["owner/long-GGUF"].needs_token = "hf_right"
    get("owner/long-GGUF", cache)
    elsewhere = [one for one in hub.asked if one.host.startswith("localhost")]
    assert elsewhere
    assert {one.authorization for one in elsewhere} == {None}
    assert {one.authorization for one in hub.asked if one not in elsewhere} == {"Bearer hf_right"}


@pytest.mark.parametrize(
    ("refused", "token", "kind", "said"),
    [
        ((403, "GatedRepo"), "", AccessDenied, "gated: its publisher shows it after you accept"),
        ((401, ""), "hf_wrong", AccessDenied, "does not accept the access token"),
        ((401, ""), "", ModelNotFound, "or it is private. Check the name"),
        ((404, "RepoNotFound"), "hf_x", ModelNotFound, "There is no repository owner/plain-GGUF"),
        ((429, ""), "", SourceUnreachable, "status 429 for owner/plain-GGUF. It asks to wait"),
        ((418, ""), "", SourceUnreachable, "status 418 for owner/plain-GGUF. Try again later"),
    ],
)
def test_every_refusal_says_what_to_do(refused, token, kind, said, hub, cache, monkeypatch):
    hub.repos["owner/plain-GGUF"].refused = refused
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(OknoError) as caught:
        plan_of("owner/plain-GGUF", cache)
    assert type(caught.value) is kind
    assert said in caught.value.message


def test_files_that_are_gated_are_said_and_leave_nothing(hub, cache):
    """As the hub does it: everybody may see what a gated repository is made of."""
    hub.repos["owner/saiga"].is_gated = True
    plan = plan_of("owner/saiga", cache)
    with pytest.raises(AccessDenied, match="after you accept the licence at http"):
        fetch(plan)
    assert not list(cache.rglob("*.incomplete"))


def test_a_repository_that_is_not_there_is_no_model(hub, cache):
    with pytest.raises(ModelNotFound, match="There is no repository owner/none on http://127"):
        plan_of("owner/none", cache)


def test_offline_nothing_is_asked(hub, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        SourceUnreachable, match="HF_HUB_OFFLINE is set, so the hub is not asked for"
    ):
        plan_of("owner/plain-GGUF", cache)
    assert hub.asked == []


def test_no_network_is_said(cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SourceUnreachable, match=r"cannot be fetched from http://127.0.0.1:9: .*refu"
    ):
        plan_of("owner/plain-GGUF", cache)


def test_the_password_of_a_mirror_is_never_shown(hub, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@127.0.0.1:9")
    with pytest.raises(SourceUnreachable, match=r"cannot be fetched from http://127.0.0.1:9: "):
        plan_of("owner/plain-GGUF", cache)
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http://", "http://user:secret@"))
    with pytest.raises(ModelNotFound, match="no repository owner/none on http://127"):
        plan_of("owner/none", cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceUnreachable, match=r"^http://127.* is not asked for"):
        open_reference(Reference("owner", "none", "x.gguf"))


def test_a_cache_that_cannot_be_written_is_no_matter_of_the_network(hub, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelUnusable, match=r"cannot be stored: .* another folder with HF_HOME"):
        get("owner/plain-GGUF", tmp_path / "file")


COMMIT = b'{"id": "x", "sha": "%s", "siblings": [' % (b"c" * 40)


@pytest.mark.parametrize(
    "told",
    [
        b"<html>", b"[]", b'{"id": "x"}', b'{"siblings": [{}]}', b'{"id": "x", "sha": 5}',
        COMMIT + b'{"rfilename": 5, "size": 5}]}',
        COMMIT + b'{"rfilename": "a.gguf", "size": "large"}]}',
        COMMIT + b'{"rfilename": "a.gguf", "size": -5}]}',
        COMMIT + b'{"rfilename": "a.gguf", "size": 1.5}]}',
    ],
)  # fmt: skip
def test_what_is_no_hub_is_said(told, hub, cache):
    hub.says = told
    with pytest.raises(SourceUnreachable, match="does not tell what owner/plain-GGUF is made of"):
        plan_of("owner/plain-GGUF", cache)


def test_names_that_lead_out_of_the_repository_are_left_out(hub, cache):
    hub.repos["owner/bad"] = Repo({"../../up.gguf": Q4, "ok.gguf": Q8, "/abs.gguf": Q4})
    assert [file.name for file in plan_of("owner/bad", cache).files] == ["ok.gguf"]


def test_progress_counts_every_byte_once_and_says_what_is_left(hub, cache):
    told: list[tuple[str, int, int, float | None]] = []
    fetch(plan_of("owner/long-GGUF", cache), lambda *one: told.append(one))
    loading = [one for one in told if one[0] == "Downloading"]
    assert loading[-1][1] == loading[-1][2] == LONG_BYTES + 4
    assert [one[1] for one in loading] == sorted(one[1] for one in loading)
    assert loading[-1][3] == 0
    assert told[-1][0] == "Checking"


def test_a_download_that_is_interrupted_goes_on_with_the_next_command(hub, cache):
    """Ctrl-C in the middle of a file; nothing half done is taken for a model."""
    hub.stops_at = 15 * MIB
    environment = clean_environment(
        HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(cache), NO_PROXY="127.0.0.1,localhost"
    )
    command = [*OKNO, "pull", "owner/long-GGUF", "--yes"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        partial = next(until(lambda: list(cache.rglob("*.incomplete"))))
        next(until(lambda: [1] if partial.stat().st_size >= 10 * MIB else []))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert find_cached(Reference("owner", "long-GGUF"), cache) == []
    got = partial.stat().st_size
    assert got >= 10 * MIB
    hub.stops_at = None
    data = hub.repos["owner/long-GGUF"].files["long.gguf"]
    assert plan_of("owner/long-GGUF", cache).missing_bytes == len(data) - got
    assert get("owner/long-GGUF", cache).read_bytes() == data
    assert hub.ranges()[-1] == f"bytes={got}-"
    assert digest_of(data) == hashlib.sha256(data).hexdigest()


def test_two_programs_that_want_the_same_fetch_it_once(hub, cache):
    environment = clean_environment(
        HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(cache), NO_PROXY="127.0.0.1,localhost"
    )
    command = [*OKNO, "pull", "owner/long-GGUF", "--yes"]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait(timeout=90) for process in both] == [0, 0]
    whole = [one for one in hub.asked if one.path.startswith("/large/") and one.method == "GET"]
    read = [one for one in whole if one.range is None]
    assert len(read) == 1


def until(look) -> Iterator[object]:
    """The first thing that `look` finds; the suite's own time limit ends it."""
    while not (found := look()):
        time.sleep(0.01)
    yield found[0]


def test_the_library_is_imported_only_to_download():
    code = "import okno.cli.pull, okno.convert.obtain, sys; print('huggingface_hub' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest.mark.parametrize("tells", ["no checksums", "only names"])
def test_a_mirror_without_checksums_is_told_and_its_files_are_looked_at(hub, cache, tells):
    hub.repos["owner/real"] = Repo({"demo.gguf": demo_model().path.read_bytes()})
    hub.repos["owner/saiga"] = Repo(small_files())
    hub.tells = tells
    plan = plan_of("owner/real", cache)
    assert [file.name for file in plan.unchecked] == ["demo.gguf"]
    (told,) = [line for line in download_lines(plan) if "tells no checksum" in line]
    assert told.startswith(f"{hub.url} tells no checksum of demo.gguf: only size and header")
    assert fetch(plan).read_bytes() == demo_model().path.read_bytes()
    folder = get("owner/saiga", cache)
    assert (folder / "model.safetensors").read_bytes() == small_files()["model.safetensors"]
    hub.tells = "all"
    assert plan_of("owner/real", cache).unchecked == ()


@pytest.mark.parametrize("tells", ["no checksums", "only names"])
@pytest.mark.parametrize("name", ["model.safetensors", "demo.gguf"])
def test_a_damaged_file_of_a_mirror_without_checksums_is_thrown_away(hub, cache, tells, name):
    """Cut short, though the mirror's own length agrees; with another start."""
    hub.tells = tells
    whole = {**small_files(), "demo.gguf": demo_model().path.read_bytes()}
    others = {} if name == "demo.gguf" else {n: d for n, d in whole.items() if n != "demo.gguf"}
    for damaged in (whole[name][:-4096], b"<html>" + whole[name][6:]):
        hub.repos["owner/bad"] = Repo({**others, name: damaged})
        with pytest.raises(SourceUnreachable, match=f"{name} .* did not arrive .* thrown away"):
            get("owner/bad", cache)
        assert not list(cache.rglob(name))
    hub.repos["owner/bad"] = Repo({**others, name: whole[name]})
    assert get("owner/bad", cache).exists()
