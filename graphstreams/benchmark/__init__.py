"""Ways to put one module on streams against serial Inductor on a GPU, in one run and in turns.

What is not graphstreams comes from outside: a rival is a function that compiles the module in its own way, a policy one that
places the kernels of a graph. Policies are played on the kernels of the serial graph; nothing is compiled for them.
"""
