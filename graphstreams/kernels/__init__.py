"""Triton kernels that may take the place of an operator's own, with the operator's bits or with sums in another order."""
