"""Bytes from here and from a web server: in ranges, bounded, with errors that say what to do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from okno.core.errors import (
    AccessDenied,
    BadSetting,
    ModelNotFound,
    ModelUnusable,
    OknoError,
    SourceUnreachable,
)
from okno.inspect import gguf_cursor, source, source_http
from okno.inspect.header import read_header
from okno.inspect.source_http import Access, HttpSource
from okno.inspect.source_hub import parse_reference
from okno.inspect.source_open import open_source
from tests.inspect.gguf_bytes import LLAMA_DATA_BYTES, llama
from tests.inspect.shut import shut_folder
from tests.inspect.web import Answer, Site, serving

WEIGHTS_BYTES = 3 << 20
SMALL = llama().bytes(LLAMA_DATA_BYTES)
# A header of 0.6 MiB, then weights that nobody should ask for.
LARGE = (
    llama().words("tokenizer.ggml.merges", *["merge and"] * 36_000)
    .tensor("big", (WEIGHTS_BYTES // 4,), 0, 768 + 224)
    .bytes(LLAMA_DATA_BYTES + WEIGHTS_BYTES)
)  # fmt: skip
GGUF_PATH = "/owner/repo/resolve/main/model-Q4_K_M.gguf"


@pytest.fixture(autouse=True)
def _no_hub_variables(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({GGUF_PATH: LARGE})) as found:
        yield found


@pytest.fixture
def hub(site: Site, monkeypatch) -> Site:
    """The site as the hub."""
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    return site


def test_the_header_of_a_remote_file_is_read_without_its_weights(site):
    found = read_header(site.url + GGUF_PATH)
    assert found.architecture == "llama"
    assert found.file_bytes == len(LARGE)
    assert found.name == "model-Q4_K_M"
    ranges = [asked.range.removeprefix("bytes=").split("-") for asked in site.asked if asked.range]
    got = sum(int(last) - int(first) + 1 for first, last in ranges)
    assert got < len(LARGE) / 2
    assert len(site.asked) <= 3  # blocks grow


def test_local_and_remote_give_the_same_header(site, tmp_path):
    path = tmp_path / "model-Q4_K_M.gguf"
    path.write_bytes(LARGE)
    assert read_header(path) == read_header(site.url + GGUF_PATH)


def test_a_split_model_is_read_from_the_same_folder(site, tmp_path):
    from tests.inspect.test_gguf import split

    split(tmp_path)
    for path in tmp_path.iterdir():
        site.files[f"/m/{path.name}"] = path.read_bytes()
    found = read_header(f"{site.url}/m/m-00002-of-00003.gguf")
    assert len(found.tensors) == 3
    del site.files["/m/m-00002-of-00003.gguf"]
    with pytest.raises(ModelNotFound, match=r"m-00002-of-00003\.gguf is missing"):
        read_header(f"{site.url}/m/m-00001-of-00003.gguf")


def test_redirects_are_followed_but_the_token_is_not_sent_along(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(Site({"/cdn/blob": SMALL})) as cdn:
        # Another origin: another port of this machine.
        hub.redirects[GGUF_PATH] = f"{cdn.url}/cdn/blob?signature=1"
        assert read_header("owner/repo/model-Q4_K_M.gguf").architecture == "llama"
        assert {asked.authorization for asked in hub.asked} == {"Bearer hf_secret"}
        assert {asked.authorization for asked in cdn.asked} == {None}


def test_the_token_goes_to_the_hub_alone(site, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    read_header(site.url + GGUF_PATH)  # the hub is elsewhere
    assert {asked.authorization for asked in site.asked} == {None}


def test_a_token_for_another_origin_stays_here(site):
    secure = site.url.replace("http://", "https://")
    for origin in ("http://hub.example", secure, site.url):
        HttpSource(site.url + GGUF_PATH, Access(origin, "secret")).close()
    assert [asked.authorization for asked in site.asked] == [None, None, "Bearer secret"]


def test_the_hub_is_not_asked_in_clear_text(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http://", "https://"))
    with pytest.raises(SourceUnreachable, match="https://127"):  # nobody speaks TLS there
        read_header(hub.url + GGUF_PATH)
    assert hub.asked == []


def listed(*files: str) -> bytes:
    return json.dumps({"siblings": [{"rfilename": file} for file in files]}).encode()


def test_a_repository_means_its_one_model_or_the_quantisation_named(hub):
    address = "/api/models/owner/repo/revision/main"
    hub.files[address] = listed("README.md", "mmproj-F16.gguf", "model-Q4_K_M.gguf")
    assert read_header("owner/repo").name == "model-Q4_K_M"
    hub.files[address] = listed("model-Q4_K_M.gguf", "model-Q8_0.gguf")
    assert read_header("owner/repo:q4_k_m").name == "model-Q4_K_M"
    for name in ("owner/repo", "owner/repo:Q5_K_M"):
        with pytest.raises(ModelNotFound, match=r"model-Q8_0\.gguf\. Say which"):
            read_header(name)
    hub.files[address] = b"[1, 2"
    with pytest.raises(SourceUnreachable, match="does not list"):
        read_header("owner/repo")


@pytest.mark.parametrize("page", ["blob", "raw", "resolve"])
def test_a_page_of_the_hub_means_the_file(hub, page):
    assert read_header(f"{hub.url}/owner/repo/{page}/main/model-Q4_K_M.gguf").n_layer == 2
    hub.files["/raw/blob/resolve/main/m.gguf"] = SMALL
    assert read_header(f"{hub.url}/raw/blob/{page}/main/m.gguf").n_layer == 2


@pytest.mark.parametrize(
    ("page", "revision"),
    [("", "main"), ("/", "main"), ("/tree/main", "main"), ("/tree/main/?x=1", "main"),
     ("/tree/refs%2Fpr%2F1", "refs%2Fpr%2F1")],
)  # fmt: skip
def test_a_page_of_a_repository_means_its_model(hub, page, revision):
    hub.files[f"/api/models/owner/repo/revision/{revision}"] = listed("model-Q4_K_M.gguf")
    hub.files[f"/owner/repo/resolve/{revision}/model-Q4_K_M.gguf"] = LARGE
    assert read_header(f"{hub.url}/owner/repo{page}").name == "model-Q4_K_M"


def test_an_endpoint_may_have_a_path_and_a_folder_s_page_is_refused(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirror")
    hub.files["/mirror/api/models/owner/repo/revision/main"] = listed("m.gguf")
    hub.files["/mirror/owner/repo/resolve/main/m.gguf"] = SMALL
    assert read_header(f"{hub.url}/mirror/owner/repo").name == "m"
    assert read_header(f"{hub.url}/mirror/owner/repo/blob/main/m.gguf").name == "m"
    with pytest.raises(ModelNotFound, match="BF16 is a folder of owner/repo"):
        read_header(f"{hub.url}/mirror/owner/repo/tree/main/BF16")


def test_a_repository_s_page_on_another_server_is_a_file(site):
    site.files["/owner/repo"] = SMALL
    assert read_header(f"{site.url}/owner/repo").n_layer == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/repo", ("owner/repo", None, "main", None)),
        ("hf:owner/repo:Q8_0", ("owner/repo", None, "main", "Q8_0")),
        ("o/r/folder/f.gguf@v1.0", ("o/r", "folder/f.gguf", "v1.0", None)),
        ("o/r@refs/pr/1:Q4_0", ("o/r", None, "refs/pr/1", "Q4_0")),
        ("hf:o/r.gguf", ("o/r.gguf", None, "main", None)),
        ("o/r.gguf-files/f.gguf", ("o/r.gguf-files", "f.gguf", "main", None)),
    ],
)
def test_references_are_taken_apart(text, expected):
    found = parse_reference(text)
    assert found is not None
    assert (found.id, found.file, found.revision, found.quant) == expected


@pytest.mark.parametrize(
    "text",
    ["name", "o/r/../x", "o r/x", "/abs/path", "o//r", "o/r:", "ü:/x", "models/mine.gguf",
     "models/MINE.GGUF", "models/mine.safetensors", "models/mine.gguf:Q4_0", "o/r@..",
     "o/r@/etc/passwd", "o/r:Q4_0@../x"],
)  # fmt: skip
def test_what_is_no_reference_is_not_asked_for(text):
    assert parse_reference(text) is None
    with pytest.raises(ModelNotFound):
        open_source(text)


@pytest.mark.parametrize(
    ("refusal", "kind", "said"),
    [
        ((401, ""), AccessDenied, "HF_TOKEN"),
        ((401, "RepoNotFound"), AccessDenied, "no such repository"),
        ((403, "GatedRepo"), AccessDenied, "accept the licence"),
        ((403, ""), AccessDenied, "may not be read"),
        ((404, "EntryNotFound"), ModelNotFound, "EntryNotFound"),
        ((500, ""), SourceUnreachable, "status 500"),
        ((429, ""), SourceUnreachable, "status 429"),
    ],
)
def test_refusals_say_what_to_do(site, refusal, kind, said):
    site.refused["/x.gguf"] = refusal
    with pytest.raises(kind, match=said):
        read_header(f"{site.url}/x.gguf")


def test_a_file_that_changes_between_two_ranges_is_noticed(site, monkeypatch):
    monkeypatch.setattr(source_http, "FIRST_BLOCK_BYTES", 1024)

    def change(answer: Answer) -> Answer:
        site.etag = '"2"'
        return answer

    site.misbehave = change
    with pytest.raises(ModelUnusable, match="was changed"):
        read_header(site.url + GGUF_PATH)


def shifted(answer: Answer) -> Answer:
    return Answer(206, answer.headers | {"Content-Range": "bytes 7-99/1000"}, answer.body)


def unsaid(answer: Answer) -> Answer:
    return Answer(206, {"ETag": "1"}, answer.body)


def too_little(answer: Answer) -> Answer:
    return Answer(answer.status, answer.headers, answer.body[:100])


@pytest.mark.parametrize(
    ("misbehave", "said"),
    [
        (shifted, "sends bytes 7-99 of 1000"),
        (unsaid, "without saying which"),
        (too_little, "sends 100 bytes"),
    ],
)
def test_answers_that_contradict_themselves_are_refused(site, misbehave, said):
    site.misbehave = misbehave
    with pytest.raises(SourceUnreachable, match=said):
        read_header(site.url + GGUF_PATH)


def test_a_connection_that_breaks_off_is_an_error_that_says_so(site):
    site.misbehave = lambda answer: Answer(200, {"Content-Length": "999999"}, answer.body[:50])
    with pytest.raises(SourceUnreachable, match="Check the address and the network"):
        read_header(site.url + GGUF_PATH)


def test_a_server_without_ranges_gives_small_files_only(site, monkeypatch):
    site.ignores_ranges = True
    assert read_header(site.url + GGUF_PATH).n_layer == 2
    monkeypatch.setattr(source_http, "MAX_WHOLE_BYTES", 1 << 20)
    with pytest.raises(SourceUnreachable, match="does not answer range requests"):
        read_header(site.url + GGUF_PATH)
    site.misbehave = lambda answer: Answer(200, {"Transfer-Encoding": "chunked"}, bytes(2 << 20))
    with pytest.raises(SourceUnreachable, match="does not answer range requests"):
        read_header(site.url + GGUF_PATH)
    site.misbehave = lambda answer: Answer(200, {"Content-Length": str(1 << 40)}, b"")
    with pytest.raises(SourceUnreachable, match="does not answer range requests"):
        read_header(site.url + GGUF_PATH)


def test_no_more_than_the_bound_is_read(site, monkeypatch):
    monkeypatch.setattr(source_http, "MAX_READ_BYTES", 300_000)
    with pytest.raises(ModelUnusable, match="is larger than"):
        read_header(site.url + GGUF_PATH)


def test_an_empty_file_is_no_model(site):
    site.files["/empty.gguf"] = b""
    with pytest.raises(ModelUnusable, match="begins with b''"):
        read_header(f"{site.url}/empty.gguf")


def test_no_network_is_said(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(SourceUnreachable, match="Check the address and the network"):
        read_header(f"http://127.0.0.1:{port}/m.gguf")


@pytest.mark.parametrize(
    "address", ["http://", "http://[::1", "http://a b/", "https://:1/", "http://x:99999/m.gguf"]
)
def test_addresses_that_cannot_be_are_errors_too(address):
    with pytest.raises(OknoError):
        read_header(address)


def test_endless_redirects_and_other_schemes_end(site):
    site.redirects["/loop.gguf"] = "/loop.gguf"
    site.redirects["/file.gguf"] = "file:///etc/passwd"
    for path in ("/loop.gguf", "/file.gguf"):
        with pytest.raises(SourceUnreachable):
            read_header(site.url + path)


def test_offline_means_no_request(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceUnreachable, match="HF_HUB_OFFLINE"):
        read_header("owner/repo")
    assert hub.asked == []


def test_an_endpoint_that_is_no_address_is_refused(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "huggingface")
    with pytest.raises(BadSetting, match="HF_ENDPOINT"):
        read_header("owner/repo")


def test_messages_keep_secrets(site):
    address = site.url.replace("http://", "http://user:pass@") + "/no.gguf?token=secret"
    with pytest.raises(ModelNotFound) as caught:
        read_header(address)
    assert "secret" not in caught.value.message
    assert "pass" not in caught.value.message


def test_what_is_here_comes_before_the_hub(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    Path("owner/repo").write_bytes(SMALL)
    assert read_header("owner/repo").architecture == "llama"
    assert hub.asked == []


def test_a_folder_means_its_one_model(tmp_path):
    with pytest.raises(ModelUnusable, match="neither"):
        read_header(tmp_path)
    (tmp_path / "a.gguf").write_bytes(SMALL)
    (tmp_path / "mmproj-a.gguf").write_bytes(b"")
    assert read_header(tmp_path).name == "a"
    (tmp_path / "b.gguf").write_bytes(SMALL)
    with pytest.raises(ModelNotFound, match=r"a\.gguf, b\.gguf"):
        read_header(tmp_path)


def test_what_may_not_be_read_is_said_and_asked_for_nowhere_else(hub, monkeypatch):
    with shut_folder("m.gguf") as shut:
        for path in (shut, shut / "m.gguf"):
            with pytest.raises(ModelUnusable, match=r"cannot be read: .*Permission denied"):
                read_header(path)
        monkeypatch.chdir(shut.parent)
        with pytest.raises(ModelUnusable, match=r"shut/m\.x cannot be read: Permission denied"):
            read_header("shut/m.x")  # could be `owner/repo`
        monkeypatch.undo()
    assert hub.asked == []


def test_loops_endless_names_and_unknown_users_are_errors_too(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ModelUnusable, match="loop cannot be read: Too many levels"):
        read_header(tmp_path / "loop")
    with pytest.raises(ModelNotFound, match="There is no file"):
        read_header(tmp_path / ("x" * 300))
    with pytest.raises(ModelNotFound, match="a user who has none here"):
        read_header("~okno-no-such-user/m.gguf")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 5000, "\x00"])
def test_names_that_name_nothing(name):
    with pytest.raises(ModelNotFound):
        read_header(name)


def test_small_blocks_give_the_same_bytes(site, monkeypatch):
    monkeypatch.setattr(source_http, "FIRST_BLOCK_BYTES", 100)
    monkeypatch.setattr(gguf_cursor, "FIRST_BLOCK_BYTES", 50_000)
    with closing(HttpSource(site.url + GGUF_PATH)) as opened:
        assert opened.read(90, 20) == LARGE[90:110]
        assert opened.read(len(LARGE) - 5, 100) == LARGE[-5:]
        assert opened.read(len(LARGE), 10) == b""
    assert read_header(site.url + GGUF_PATH).n_layer == 2
    assert source.LAST_BLOCK_BYTES > source.FIRST_BLOCK_BYTES
