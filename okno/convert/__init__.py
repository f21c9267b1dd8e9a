"""Models as people have them made engine-ready: safetensors, packed weights, adapters to GGUF."""
