"""Benchmarks of libraries that call `torch.compile` themselves: transformers and diffusers."""
