"""Settings of loading: which model, which window, which engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from okno.config.adapters import checked_adapters
from okno.config.fields import ENGINE, MODEL, WINDOW, Auto, Layers, Part, Words
from okno.config.flag import Flag
from okno.core.window import MAX_BATCH_SIZE, KVType


class LoadSettings(Part):
    """What decides how a model is loaded. None means `auto` or not given."""

    model: Annotated[
        str,
        Field(min_length=1, max_length=4096),
        Flag(
            ("--model", "-m"), MODEL, "model to load",
            "A path to a .gguf file or to a folder of weights, a name in the models folder, a "
            "Hugging Face repository (owner/repo[:quant], fetched when it is not here), or `demo` "
            "(ships with okno).",
            metavar="NAME|PATH", also=("--hf-repo", "-hf"),
        ),
    ] = "demo"  # fmt: skip
    models_dir: Annotated[
        Path | None,
        Flag(
            ("--models-dir",), MODEL, "models folder",
            "Default: `models` in okno's user data folder.", metavar="FOLDER",
        ),
    ] = None  # fmt: skip
    alias: Annotated[
        str | None,
        Field(max_length=256, pattern=r"^[^\p{C}]+$"),
        Flag(
            ("--alias",), MODEL, "name under which the model is served",
            "Default: the name of the file.", metavar="NAME", also=("--served-model-name",),
        ),
    ] = None  # fmt: skip
    load_in_8bit: Annotated[
        bool,
        Flag(
            ("--load-in-8bit",), MODEL, "ask for 8-bit weights",
            "Weights of 16 or 32 bits are quantised once (Q8_0), and the result is kept. What is "
            "quantised already stays as it is.",
        ),
    ] = False  # fmt: skip
    load_in_4bit: Annotated[
        bool,
        Flag(
            ("--load-in-4bit",), MODEL, "ask for 4-bit weights",
            "Weights of 16 or 32 bits, and of 8, are quantised once (Q4_K_M or Q4_0, whichever is "
            "faster here), and the result is kept. What has fewer bits already stays as it is.",
        ),
    ] = False  # fmt: skip
    lora: Annotated[
        tuple[str, ...],
        Words,
        AfterValidator(checked_adapters),
        Flag(
            ("--lora",), MODEL, "LoRA adapter to apply; may be repeated",
            "A GGUF adapter, or a folder in PEFT's format (safetensors): a path, or a name in the "
            "models folder. All of them are applied to every request, each times its scale "
            "(default 1).",
            metavar="[NAME=]PATH[:SCALE]", also=("--lora-scaled",),
        ),
    ] = ()  # fmt: skip
    model_defaults: Annotated[
        bool,
        Flag(
            ("--model-defaults/--no-model-defaults",), MODEL,
            "use the generation settings that come with the model",
            "Those of generation_config.json beside its file, and of the GGUF header. Whatever is "
            "set elsewhere wins.",
        ),
    ] = True  # fmt: skip

    batch_size: Annotated[
        int | None,
        Field(ge=1, le=MAX_BATCH_SIZE),
        Auto,
        Flag(
            ("--batch-size",), WINDOW, "sequences decoded at once",
            "1: one request at a time. The rest wait in a fair queue.", metavar="N|auto",
            also=("--parallel", "-np", "--n-parallel", "--max-num-seqs"),
            too_big="In text-generation-webui and llama-server --batch-size means prompt tokens "
            "per step; here that is --step-tokens.",
        ),
    ] = None  # fmt: skip
    ctx: Annotated[
        int | None,
        Field(ge=16, le=16_777_216),
        Auto,
        Flag(
            ("--ctx", "--ctx-size", "-c"), WINDOW,
            "tokens one request may see, prompt and answer together",
            "Never divided by the batch size.", metavar="N|auto",
            also=("--n-ctx", "--max-seq-len", "--max-model-len"),
        ),
    ] = None  # fmt: skip
    kv_pool: Annotated[
        int | None,
        Field(ge=16, le=2_147_483_647),
        Auto,
        Flag(
            ("--kv-pool",), WINDOW, "tokens of KV cache shared by all sequences",
            "auto: batch size x ctx.", metavar="N|auto",
        ),
    ] = None  # fmt: skip
    kv_type: Annotated[
        KVType,
        Flag(
            ("--kv-type",), WINDOW, "number format of the KV cache, keys and values alike",
            metavar="TYPE",
            also=("--cache-type", "--cache-type-k", "--cache-type-v", "-ctk", "-ctv"),
        ),
    ] = "f16"  # fmt: skip
    step_tokens: Annotated[
        int,
        Field(ge=8, le=65_536),
        Flag(
            ("--step-tokens",), WINDOW, "most tokens computed in one step",
            "Longer prompts are computed in pieces of this size.", metavar="N",
            also=("--ubatch-size", "-ub", "--n-batch", "--n-ubatch", "--max-num-batched-tokens"),
        ),
    ] = 256  # fmt: skip
    prefix_cache: Annotated[
        bool,
        Flag(
            ("--prefix-cache/--no-prefix-cache",), WINDOW,
            "keep finished conversations in the KV cache until their place is needed",
        ),
    ] = True  # fmt: skip
    swap_space: Annotated[
        float | None,
        Field(ge=0, le=65_536, allow_inf_nan=False),
        Auto,
        Flag(
            ("--swap-space",), WINDOW, "GiB of main memory for states that lose their KV cells",
            "What was computed is copied back instead of computed again. auto: a quarter of what "
            "the window leaves free, at most 1. 0: none.", metavar="GIB|auto",
        ),
    ] = None  # fmt: skip
    prefer: Annotated[
        Literal["speed", "quality", "context", "users"],
        Flag(
            ("--prefer",), WINDOW, "what `auto` picks batch size and ctx for",
            metavar="speed|quality|context|users",
        ),
    ] = "speed"  # fmt: skip
    max_ttft: Annotated[
        float | None,
        Field(gt=0, le=86_400, allow_inf_nan=False),
        Auto,
        Flag(
            ("--max-ttft",), WINDOW, "seconds to the first token that `auto` keeps within",
            metavar="SECONDS|auto",
        ),
    ] = None  # fmt: skip
    min_tok_s: Annotated[
        float | None,
        Field(gt=0, le=1_000_000, allow_inf_nan=False),
        Auto,
        Flag(
            ("--min-tok-s",), WINDOW, "tokens/s that `auto` leaves to every user",
            metavar="N|auto",
        ),
    ] = None  # fmt: skip

    target_itl: Annotated[
        float | None,
        Field(ge=0, le=3600, allow_inf_nan=False),
        Auto,
        Flag(
            ("--target-itl",), WINDOW,
            "seconds between two tokens that the prompts and guesses of others may cost",
            "Prompts advance in pieces that keep it, guesses are as many as keep it on average. "
            "auto: 0.3, more where pieces so small would slow prompts down to a third; for guesses "
            "half more than without. 0: no limit.",
            metavar="SECONDS|auto",
        ),
    ] = None  # fmt: skip

    speculate: Annotated[
        Literal["auto", "lookup", "draft", "mtp", "off"],
        Flag(
            ("--speculate",), ENGINE, "who guesses next tokens, to compute several in one step",
            "lookup: the sequence's own text; draft: the model of --draft; mtp: the model's own "
            "prediction head; auto: lookup and one of the others, where there is one. Guesses are "
            "checked only where that makes tokens come faster, and change no answer.",
            metavar="auto|lookup|draft|mtp|off",
        ),
    ] = "auto"  # fmt: skip
    draft: Annotated[
        str | None,
        Field(min_length=1, max_length=4096),
        Flag(
            ("--draft",), ENGINE, "small model of the same vocabulary that guesses next tokens",
            "A path or a name, as for --model.", metavar="NAME|PATH",
            also=("--model-draft", "-md"),
        ),
    ] = None  # fmt: skip
    draft_tokens: Annotated[
        int,
        Field(ge=1, le=64),
        Flag(
            ("--draft-tokens",), ENGINE,
            "most tokens the draft model or prediction head guesses at once", metavar="N",
            also=("--draft-max", "--draft-n", "--num-speculative-tokens"),
        ),
    ] = 8  # fmt: skip
    threads: Annotated[
        int | None,
        Field(ge=1, le=4096),
        Auto,
        Flag(
            ("--threads", "-t"), ENGINE, "CPU threads",
            "auto: every usable core; a tiny model's answers try which of one and all is faster, "
            "its embeddings get one.",
            metavar="N|auto",
        ),
    ] = None  # fmt: skip
    gpu_layers: Annotated[
        int,
        Field(ge=-1, le=100_000),
        Layers,
        Flag(
            ("--gpu-layers", "-ngl"), ENGINE, "layers put on the GPU",
            "-1 or all: every layer, if there is a GPU.", metavar="N|all",
            also=("--n-gpu-layers",),
        ),
    ] = -1  # fmt: skip
    mmap: Annotated[
        bool,
        Flag(
            ("--mmap/--no-mmap",), ENGINE, "map the model file into memory instead of reading it",
        ),
    ] = False  # fmt: skip
    flash_attention: Annotated[
        Literal["auto", "on", "off"],
        Flag(
            ("--flash-attention", "-fa"), ENGINE,
            "fused attention kernels; auto: where they are predicted to be faster",
            metavar="auto|on|off", also=("--flash-attn",),
        ),
    ] = "auto"  # fmt: skip
    hang_timeout: Annotated[
        float,
        Field(gt=0, le=86_400, allow_inf_nan=False),
        Flag(
            ("--hang-timeout",), ENGINE,
            "seconds without a step before the engine counts as hung and is restarted",
            "Streams go on after the restart.", metavar="SECONDS",
        ),
    ] = 60.0  # fmt: skip
    engine: Annotated[
        Literal["llamacpp", "scripted"],
        Flag(("--engine",), ENGINE, "engine; `scripted` loads no model", metavar="NAME",
             hidden=True),
    ] = "llamacpp"  # fmt: skip
    script: Annotated[
        str,
        Flag(
            ("--script",),
            ENGINE,
            "what the scripted engine does",
            metavar="TEXT",
            hidden=True,
            in_file=False,
        ),
    ] = ""
