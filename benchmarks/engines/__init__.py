"""Benchmarks of libraries that call `torch.compile` themselves: transformers, diffusers and vLLM."""
