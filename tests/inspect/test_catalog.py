"""The catalog: found by the names people type; its headers match published files and the engine."""

from __future__ import annotations

import statistics

import pytest

from okno.core.errors import BadSetting, ModelNotFound, ModelUnusable
from okno.inspect.catalog import (
    CatalogModel,
    candidates_in_catalog,
    catalog,
    find_in_catalog,
    source_of,
)
from okno.inspect.header import header_of_catalog
from okno.inspect.header_catalog import canonical_quant, quantisations


def test_the_catalog_is_whole_and_every_fact_of_quality_has_a_source():
    models = catalog()
    assert len(models) > 150
    assert len({model.id for model in models}) == len(models)
    for model in models:
        assert model.kind in {"chat", "code", "reasoning", "hybrid-reasoning", "base", "embedding",
                              "reranker"}  # fmt: skip
        assert all(source_of(found.source) for found in model.quality)
        assert all(source_of(number) for number in model.sources.values())


def test_every_model_is_found_by_its_id_name_and_repositories():
    for model in catalog():
        assert find_in_catalog(model.id) is model
        assert find_in_catalog(model.name.upper()) is model
        for repo in (*model.gguf_repos, *(found.repo for found in model.gptq)):
            assert model in candidates_in_catalog(repo)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("saiga2_13b", "IlyaGusev/saiga2_13b"),
        ("Saiga-13B-GPTQ", "IlyaGusev/saiga2_13b"),
        ("TheBloke/saiga_mistral_7b-GPTQ", "IlyaGusev/saiga_mistral_7b"),
        ("saiga_mistral", "IlyaGusev/saiga_mistral_7b"),
        ("TheBloke/Mistral-7B-Instruct-v0.1-GPTQ", "mistralai/Mistral-7B-Instruct-v0.1"),
        ("qwen3-8b", "Qwen/Qwen3-8B"),
        ("Qwen3-8B-Q4_K_M.gguf", "Qwen/Qwen3-8B"),
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("gemma-3-4b", "google/gemma-3-4b-it"),
        ("phi-3-mini", "microsoft/Phi-3-mini-4k-instruct"),
        ("tinyllama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    ],
)
def test_short_names_mean_one_model(asked, expected):
    assert find_in_catalog(asked).id == expected


def test_a_name_of_several_lists_them_and_an_unknown_one_its_nearest():
    with pytest.raises(ModelNotFound, match=r"fits 3 models .*Mistral-7B-Instruct-v0\.1"):
        find_in_catalog("mistral-7b")
    with pytest.raises(ModelNotFound, match="fits 8 models"):
        find_in_catalog("saiga")
    with pytest.raises(ModelNotFound, match="Near: "):
        find_in_catalog("qwem3-8b-instrukt")
    for nothing in ("", "/", "   ", "é" * 5000, "-GPTQ"):
        with pytest.raises(ModelNotFound, match="has no model"):
            find_in_catalog(nothing)


def planned(model: CatalogModel, quant: str) -> int | None:
    """Bytes of its file as synthesised; None when its shape is not known."""
    try:
        return header_of_catalog(model, quant).file_bytes
    except ModelUnusable:
        return None


def test_synthesised_files_are_as_large_as_published_ones():
    """Most within 1 %. Others differ by what their publishers did: a separate output layer, other
    types for some tensors (unsloth's dynamic ones, Phi-3's fused layer in older llama.cpp)."""
    errors = [
        abs(size / file.n_bytes - 1)
        for model in catalog()
        for file in model.files
        if file.is_exact and (size := planned(model, file.quant)) is not None
    ]
    assert len(errors) > 90
    assert statistics.median(errors) < 0.001
    assert sum(error < 0.01 for error in errors) > 0.88 * len(errors)
    assert max(errors) < 0.13


def test_synthesised_models_have_as_many_parameters_as_known():
    checked = 0
    for model in catalog():
        window = model.shape.window
        counts_towers = model.shape.architecture == "gemma3n" or (window and window.n_shared)
        if not model.total_params or counts_towers or planned(model, "F16") is None:
            continue  # (of a few only the sum with image and sound towers is known)
        n_params = header_of_catalog(model, "F16").n_params
        allowed = 0.002 if model.shape.architecture == "bert" else 2e-4
        assert abs(n_params / model.total_params - 1) < allowed, model.id
        checked += 1
    assert checked > 140


def test_the_users_own_model_in_its_own_format():
    found = header_of_catalog(find_in_catalog("saiga2_13b"), "gptq-4bit")
    assert found.file_type == "GPTQ-4bit"
    assert found.ctx_train == 4096
    types = {tensor.name: tensor.type for tensor in found.tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_0"
    assert types["output.weight"] == types["token_embd.weight"] == "F16"
    assert 7.2e9 < found.file_bytes < 8.0e9
    assert {(layer.k_width, layer.v_width) for layer in found.layers} == {(5120, 5120)}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("q4_k_m", "Q4_K_M"), ("8bit", "Q8_0"), ("4bit", "Q4_K_M"), ("gptq", "GPTQ-4bit"),
     ("MXFP4", "MXFP4_MOE"), ("UD-Q4_K_XL", "Q4_K_M"), ("fp16", "F16"), (" bf16 ", "BF16")],
)  # fmt: skip
def test_quantisations_are_understood_as_people_spell_them(asked, meant):
    assert canonical_quant(asked) == meant


@pytest.mark.parametrize("asked", ["", "Q9_9", "é", "x" * 1000])
def test_an_unknown_quantisation_lists_the_known_ones(asked):
    with pytest.raises(BadSetting, match="Possible: F32"):
        header_of_catalog(catalog()[0], asked)


def test_every_model_gives_a_header_or_says_what_is_missing():
    refused = {}
    for model in catalog():
        for quant in ("F16", "Q4_K_M", "GPTQ-4bit"):
            try:
                found = header_of_catalog(model, quant)
            except ModelUnusable as error:
                refused[model.id] = error.message
            else:
                assert len(found.layers) == found.n_layer
                assert found.weights_bytes < found.file_bytes
    assert len(refused) < 30
    assert all("cannot be planned without its file" in message for message in refused.values())


def test_finer_quantisations_are_larger():
    model = find_in_catalog("qwen3-8b")
    assert {header_of_catalog(model, quant).file_type for quant in quantisations()} == set(
        quantisations()
    )
    order = ("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
    sizes = [header_of_catalog(model, quant).file_bytes for quant in order]
    assert sizes == sorted(sizes)
