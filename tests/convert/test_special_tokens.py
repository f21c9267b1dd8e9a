"""Special tokens and chat templates, by what the engine and okno then do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from okno.convert.fields import Field
from okno.convert.vocabulary import vocabulary_of
from okno.core.errors import ModelUnusable
from okno.inspect.pretokenizers import KNOWN
from tests.convert.trained import byte_level, splits
from tests.convert.vocab_engine import load_vocab

GPT_2 = next(iter(KNOWN))
N_VOCAB = 1700


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level(tmp_path, splits(GPT_2))
    return tmp_path


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text, encoding="utf-8")


def ids(fields: dict[str, Field]) -> dict[str, Field]:
    start, end = "tokenizer.ggml.", "_token_id"
    return {k[len(start) : -len(end)]: v for k, v in fields.items() if k.endswith(end)}


def with_template(folder: Path, single: str) -> None:
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    names = ("<|bos|>", "<|im_end|>", "<|im_start|>")
    used = [(name, tokenizer.token_to_id(name)) for name in names if name in single]
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=used)
    tokenizer.save(path)


def test_names_in_the_tokenizers_files_go_before_ids_in_the_models(folder: Path):
    write(folder, "config.json", {"bos_token_id": 7, "eos_token_id": 1, "pad_token_id": 9})
    assert ids(vocabulary_of(folder, N_VOCAB)) == {"bos": 0, "eos": 1, "padding": 9}


def test_ids_of_the_models_configuration_serve_without_names(folder: Path):
    write(folder, "tokenizer_config.json", {})
    write(folder, "config.json", {"text_config": {"eos_token_id": [1, 2]}})
    fields = vocabulary_of(folder, N_VOCAB)
    # <|im_start|> ends an answer, too, and the engine would not know: it takes the second place
    assert ids(fields) == {"bos": 1, "eos": 1, "eot": 2}
    assert load_vocab(fields, folder / "v.gguf").end_tokens == {1, 2}


def test_special_tokens_may_be_named_in_their_own_file_and_as_objects(folder: Path):
    write(folder, "tokenizer_config.json", {})
    token = {"content": "<|im_start|>", "lstrip": False}
    write(folder, "special_tokens_map.json", {"bos_token": "<|bos|>", "eos_token": token})
    assert ids(vocabulary_of(folder, N_VOCAB)) == {"bos": 0, "eos": 2}


def test_a_model_that_would_never_stop_is_refused(folder: Path):
    write(folder, "tokenizer_config.json", {"bos_token": "<|bos|>", "eos_token": "<missing>"})
    with pytest.raises(ModelUnusable, match=r"names no token that ends a text.*Add it"):
        vocabulary_of(folder, N_VOCAB)


def test_all_ends_of_generation_config_end_an_answer(folder: Path):
    write(folder, "generation_config.json", {"eos_token_id": [1, 5, 6]})
    vocab = load_vocab(vocabulary_of(folder, N_VOCAB), folder / "v.gguf")
    assert vocab.end_tokens == {1, 5, 6}


def test_more_ends_than_the_engine_has_places_for_are_refused(folder: Path):
    write(folder, "generation_config.json", {"eos_token_id": [1, 5, 6, 7]})
    with pytest.raises(ModelUnusable, match=r"names 4 tokens that end an answer.*for three"):
        vocabulary_of(folder, N_VOCAB)


def test_a_model_without_a_first_token_gets_none_before_its_texts(folder: Path):
    write(folder, "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    vocab = load_vocab(vocabulary_of(folder, N_VOCAB), folder / "v.gguf")
    assert not vocab.adds_bos
    assert vocab.bos == vocab.eos  # else the engine would take token 11 for it
    assert vocab.encode("x", add_special=True, parse_special=False)[0] != vocab.bos


@pytest.mark.parametrize(
    ("single", "before", "after"),
    [("$A", [], []), ("<|bos|> $A", [0], []), ("<|bos|> $A <|im_end|>", [0], [1])],
)
def test_tokens_around_a_text_are_those_of_the_post_processor(
    single: str, before: list[int], after: list[int], folder: Path
):
    with_template(folder, single)
    vocab = load_vocab(vocabulary_of(folder, N_VOCAB), folder / "v.gguf")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner = vocab.encode("hello", add_special=False, parse_special=False)
    found = vocab.encode("hello", add_special=True, parse_special=False)
    assert found == [*before, *inner, *after] == tokenizer.encode("hello").ids


def test_the_first_token_is_the_one_that_the_post_processor_puts_there(folder: Path):
    with_template(folder, "<|im_start|> $A")
    assert ids(vocabulary_of(folder, N_VOCAB))["bos"] == 2


def test_a_post_processor_with_two_tokens_before_a_text_is_refused(folder: Path):
    with_template(folder, "<|bos|> <|im_start|> $A")
    with pytest.raises(ModelUnusable, match="at most one token before and one after"):
        vocabulary_of(folder, N_VOCAB)


def test_flags_of_llama_tokenizers_count_without_a_post_processor(folder: Path):
    config: dict[str, Any] = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    config |= {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}
    write(folder, "tokenizer_config.json", config)
    assert vocabulary_of(folder, N_VOCAB)["tokenizer.ggml.add_bos_token"] is True
    with_template(folder, "$A")
    assert vocabulary_of(folder, N_VOCAB)["tokenizer.ggml.add_bos_token"] is False


def test_tokens_to_fill_in_the_middle_are_found_by_name(folder: Path):
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_tokens(["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"])
    tokenizer.save(path)
    found = ids(vocabulary_of(folder, N_VOCAB))
    names = {"fim_pre": "prefix", "fim_mid": "middle", "fim_suf": "suffix"}
    for role, name in names.items():
        assert found[role] == tokenizer.token_to_id(f"<|fim_{name}|>")


def test_the_chat_template_is_taken_from_wherever_it_is(folder: Path):
    config = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    key = "tokenizer.chat_template"
    assert key not in vocabulary_of(folder, N_VOCAB)
    write(folder, "chat_template.json", {"chat_template": "json"})
    assert vocabulary_of(folder, N_VOCAB)[key] == "json"
    write(folder, "tokenizer_config.json", config | {"chat_template": "config"})
    assert vocabulary_of(folder, N_VOCAB)[key] == "json"
    write(folder, "chat_template.jinja", "{{ 'файл' }}")
    assert vocabulary_of(folder, N_VOCAB)[key] == "{{ 'файл' }}"


def test_named_chat_templates_are_kept_by_name(folder: Path):
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    config = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>", "chat_template": named}
    write(folder, "tokenizer_config.json", config)
    write(folder, "additional_chat_templates/rag.jinja", "r")
    fields = vocabulary_of(folder, N_VOCAB)
    found = {k: v for k, v in fields.items() if "chat_template" in k}
    assert found == {
        "tokenizer.chat_template": "d",
        "tokenizer.chat_template.tool_use": "t",
        "tokenizer.chat_template.rag": "r",
        "tokenizer.chat_templates": ("tool_use", "rag"),
    }


def test_a_chat_template_of_megabytes_is_refused(folder: Path):
    write(folder, "chat_template.jinja", "x" * (1 << 20) + "x")
    with pytest.raises(ModelUnusable, match="'default' is longer than 1 MiB"):
        vocabulary_of(folder, N_VOCAB)
