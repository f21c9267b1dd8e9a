"""Shapes by name: of real models, of the smallest that llama.cpp computes, and of middle size."""

from __future__ import annotations

from okno.bench.tensors import Shape

SPEED = (
    # 1.04 B weights: 973 M in the layers, 66 M in a tied vocabulary of 32,000.
    Shape("llama-1b", "llama", n_embd=2048, n_layer=16, n_head=32, n_head_kv=8, head_dim=64,
          n_ff=8192, n_vocab=32_000, ctx_train=8192, rope_base=500_000.0),
    # The sizes of SmolLM-135M.
    Shape("llama-135m", "llama", n_embd=576, n_layer=30, n_head=9, n_head_kv=3, head_dim=64,
          n_ff=1536, n_vocab=49_152, ctx_train=2048),
)  # fmt: skip
# One per family for tests: small enough to make and run in milliseconds.
TINY = (
    Shape("tiny", "llama", n_embd=64, n_layer=2, n_head=4, n_head_kv=2, head_dim=16,
          n_ff=128, n_vocab=512, ctx_train=1024, tied=False),
    Shape("qwen3-tiny", "qwen3", n_embd=64, n_layer=2, n_head=4, n_head_kv=2, head_dim=32,
          n_ff=128, n_vocab=512, ctx_train=1024, rope_base=1e6, tied=False),
    Shape("gemma3-tiny", "gemma3", n_embd=64, n_layer=6, n_head=4, n_head_kv=2, head_dim=32,
          n_ff=128, n_vocab=512, ctx_train=1024, rope_base=1e6, sliding_window=64,
          tied=False),
    Shape("mamba2-tiny", "mamba2", n_embd=64, n_layer=2, n_vocab=512, ctx_train=1024,
          state_size=16, tied=False),
    Shape("mha-tiny", "llama", n_embd=64, n_layer=2, n_head=4, n_head_kv=4, head_dim=16,
          n_ff=128, n_vocab=512, ctx_train=1024, tied=False),
    Shape("phi-tiny", "phi3", n_embd=64, n_layer=2, n_head=4, n_head_kv=4, head_dim=16,
          n_ff=128, n_vocab=512, ctx_train=1024, tied=False),
    Shape("qwen3moe-tiny", "qwen3moe", n_embd=64, n_layer=2, n_head=4, n_head_kv=2,
          head_dim=32, n_vocab=512, ctx_train=1024, rope_base=1e6, tied=False, n_expert=8,
          n_expert_used=2, n_ff_expert=64),
    Shape("gpt-oss-tiny", "gpt-oss", n_embd=64, n_layer=4, n_head=4, n_head_kv=2, head_dim=32,
          n_vocab=512, ctx_train=1024, rope_base=1.5e5, tied=False, sliding_window=64,
          n_expert=4, n_expert_used=2, n_ff_expert=64),
    Shape("deepseek2-tiny", "deepseek2", n_embd=64, n_layer=3, n_head=4, n_head_kv=4,
          head_dim=48, v_head_dim=32, rope_dim=16, q_lora=32, kv_lora=64, n_ff=128, n_vocab=512,
          ctx_train=1024, tied=False, n_expert=8, n_expert_used=2, n_ff_expert=32,
          dense_layers=1, shared_experts=1),
    Shape("glm-mtp-tiny", "glm4moe", n_embd=64, n_layer=2, n_head=4, n_head_kv=2, head_dim=16,
          n_ff=128, n_vocab=512, ctx_train=1024, tied=False, n_expert=4, n_expert_used=2,
          n_ff_expert=32, dense_layers=1, shared_experts=1, mtp_layers=1),
    Shape("granite-tiny", "granitehybrid", n_embd=64, n_layer=4, n_head=4, n_head_kv=2,
          head_dim=16, n_ff=128, n_vocab=512, ctx_train=1024, state_size=16,
          attention_layers=(2,)),
    Shape("lfm2-tiny", "lfm2", n_embd=64, n_layer=4, n_head=4, n_head_kv=2, head_dim=16,
          n_ff=128, n_vocab=512, ctx_train=1024, conv_kernel=3, attention_layers=(1, 3)),
    Shape("bert-tiny", "bert", n_embd=64, n_layer=2, n_head=4, n_head_kv=4, head_dim=16,
          n_ff=128, n_vocab=512, ctx_train=128, pooling="mean"),
)  # fmt: skip
# A few layers as wide as a real model's: memory and scratch of one, in seconds of computing.
MEMORY = (
    Shape("llama-mid", "llama", n_embd=2048, n_layer=4, n_head=32, n_head_kv=8, head_dim=64,
          n_ff=8192, n_vocab=32_000, ctx_train=32_768, rope_base=500_000.0),
    Shape("mha-mid", "llama", n_embd=2048, n_layer=4, n_head=16, n_head_kv=16, head_dim=128,
          n_ff=5504, n_vocab=32_000, ctx_train=32_768, tied=False),
    Shape("qwen3-mid", "qwen3", n_embd=1024, n_layer=4, n_head=16, n_head_kv=8, head_dim=128,
          n_ff=3072, n_vocab=151_936, ctx_train=32_768, rope_base=1e6),
    Shape("gemma3-mid", "gemma3", n_embd=1152, n_layer=6, n_head=4, n_head_kv=1, head_dim=256,
          n_ff=6912, n_vocab=262_144, ctx_train=32_768, rope_base=1e6, sliding_window=512),
    Shape("gpt-oss-mid", "gpt-oss", n_embd=1024, n_layer=4, n_head=32, n_head_kv=8, head_dim=64,
          n_vocab=100_000, ctx_train=32_768, rope_base=1.5e5, tied=False, sliding_window=128,
          n_expert=16, n_expert_used=4, n_ff_expert=1024),
    Shape("qwen3moe-mid", "qwen3moe", n_embd=1024, n_layer=4, n_head=16, n_head_kv=4,
          head_dim=128, n_vocab=151_936, ctx_train=32_768, rope_base=1e6, tied=False,
          n_expert=32, n_expert_used=8, n_ff_expert=384),
    Shape("deepseek2-mid", "deepseek2", n_embd=1024, n_layer=4, n_head=16, n_head_kv=16,
          head_dim=192, v_head_dim=128, rope_dim=64, q_lora=768, kv_lora=512, n_ff=4096,
          n_vocab=102_400, ctx_train=32_768, tied=False, n_expert=16, n_expert_used=4,
          n_ff_expert=704, dense_layers=1, shared_experts=2),
    Shape("mamba2-mid", "mamba2", n_embd=1024, n_layer=8, n_vocab=50_288, ctx_train=32_768,
          state_size=128),
    Shape("granite-mid", "granitehybrid", n_embd=1024, n_layer=8, n_head=16, n_head_kv=4,
          head_dim=64, n_ff=2048, n_vocab=100_352, ctx_train=32_768, state_size=128,
          attention_layers=(3, 7)),
    Shape("lfm2-mid", "lfm2", n_embd=1024, n_layer=8, n_head=16, n_head_kv=8, head_dim=64,
          n_ff=4608, n_vocab=65_536, ctx_train=32_768, conv_kernel=3, rope_base=1e6,
          attention_layers=(2, 5, 7)),
    Shape("phi-mid", "phi3", n_embd=3072, n_layer=4, n_head=32, n_head_kv=32, head_dim=96,
          n_ff=8192, n_vocab=32_064, ctx_train=32_768, tied=False),
    Shape("bert-mid", "bert", n_embd=768, n_layer=12, n_head=12, n_head_kv=12, head_dim=64,
          n_ff=3072, n_vocab=30_522, ctx_train=512, pooling="mean"),
    # The sizes of Llama-2-13B.
    Shape("llama-13b", "llama", n_embd=5120, n_layer=40, n_head=40, n_head_kv=40, head_dim=128,
          n_ff=13_824, n_vocab=32_000, ctx_train=4096, tied=False),
)  # fmt: skip
