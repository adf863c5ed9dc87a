"""Plan models of public libraries without a GPU, each in a process of its own, and say what becomes of each."""
