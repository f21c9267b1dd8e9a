"""Keys of Hugging Face's GenerationConfig that okno has no setting for.

`WITHOUT_EFFECT`: bookkeeping that does not change what is generated here: accepted. `SAID`:
accepted and answered with what happens instead, because the model's file says the same. `NEUTRAL`:
a value that switches the feature off is accepted; any other one would change the answer, so it is
refused with what to do instead (in a model's own file: said, and left out). Names and defaults:
transformers, generation/configuration_utils.py, class GenerationConfig.
"""

from __future__ import annotations

from collections.abc import Mapping

WITHOUT_EFFECT = frozenset(
    {
        "bos_token_id", "pad_token_id", "decoder_start_token_id",
        "transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash",
        "use_cache", "cache_implementation", "cache_config", "return_legacy_cache",
        "prefill_chunk_size", "output_attentions", "output_hidden_states", "output_scores",
        "output_logits", "return_dict_in_generate", "trust_remote_code", "use_model_defaults",
        "compile_config", "disable_compile", "low_memory", "remove_invalid_values",
        "renormalize_logits", "is_assistant", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "assistant_confidence_threshold",
        "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
        "max_matching_ngram_size", "prompt_lookup_num_tokens", "speculative_num_draft_tokens",
        "attn_implementation", "continuous_batching_config",
        # of beam search only, whose switch is num_beams
        "diversity_penalty", "length_penalty", "early_stopping",
    }
)  # fmt: skip

SAID = {
    "eos_token_id": "the end-of-generation tokens of the model file are used",
}

_BEAMS = "okno has no beam search; leave it out"
_MODEL = "the model's own tokens decide; leave it out"
_SAMPLER = "this sampler does not exist here; use top_p, min_p or typical_p"
_LIST = "okno has no such list; send logit_bias with the request"
_CONSTRAINT = "send response_format, regex or grammar with the request"
_SIZE = "the window is set by `load: ctx`, the length of an answer by `max_new_tokens`"

NEUTRAL: Mapping[str, tuple[tuple[object, ...], str]] = {
    "num_beams": ((1,), _BEAMS),
    "num_beam_groups": ((1,), _BEAMS),
    "constraints": ((), _CONSTRAINT),
    "force_words_ids": ((), _CONSTRAINT),
    "max_length": ((20,), _SIZE),
    "min_length": ((0,), "the model decides when it is done; leave it out"),
    "min_new_tokens": ((0,), "the model decides when it is done; leave it out"),
    "max_time": ((), "no time limit is kept; use max_new_tokens"),
    "num_return_sequences": ((1,), "send `n` with the request"),
    "no_repeat_ngram_size": ((0,), "use repetition_penalty"),
    "encoder_no_repeat_ngram_size": ((0,), "use repetition_penalty"),
    "encoder_repetition_penalty": ((1,), "use repetition_penalty"),
    "penalty_alpha": ((0,), _SAMPLER),
    "epsilon_cutoff": ((0,), _SAMPLER),
    "eta_cutoff": ((0,), _SAMPLER),
    "top_h": ((), _SAMPLER),
    "dola_layers": ((), _SAMPLER),
    "guidance_scale": ((1,), "classifier-free guidance does not exist here; leave it out"),
    "exponential_decay_length_penalty": ((), "use max_new_tokens"),
    "suppress_tokens": (([],), _LIST),
    "begin_suppress_tokens": (([],), _LIST),
    "bad_words_ids": (([],), _LIST),
    "sequence_bias": (({}, []), _LIST),
    "forced_bos_token_id": ((), _MODEL),
    "forced_eos_token_id": ((), _MODEL),
    "forced_decoder_ids": (([],), _MODEL),
    "generation_kwargs": (({},), "write the keys themselves"),
    "token_healing": ((False,), "prompts are not changed at their end; leave it out"),
    "watermarking_config": ((), "answers are not watermarked; leave it out"),
}


def is_known(key: str) -> bool:
    """True for a key of GenerationConfig that is no setting of okno."""
    return key in WITHOUT_EFFECT or key in SAID or key in NEUTRAL


def objection(key: str, value: object) -> str:
    """Why `value` cannot be honoured; empty when it changes nothing here."""
    if key not in NEUTRAL or value is None:
        return ""
    neutral, instead = NEUTRAL[key]
    return "" if any(_same(value, off) for off in neutral) else instead


def _same(value: object, off: object) -> bool:
    """Equal, where true is not 1."""
    return isinstance(value, bool) is isinstance(off, bool) and value == off
