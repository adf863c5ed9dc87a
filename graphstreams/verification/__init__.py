"""The proof that a generated wrapper has no race: `wrapper/` reads it into traces, and `vector_clocks` finds their races."""
