"""One benchmark of ways to run a module on a GPU: their bits against serial Inductor's, and their times, measured in turns.

Ways other than graphstreams come from the caller: a compiler compiles the module in its own way, a policy puts the kernels of
a graph on streams. Policies are replayed on the kernels of the serial graph; nothing is compiled for them.
"""
