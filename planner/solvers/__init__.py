"""Exact and search kernels, one result type, one interface (``base.Solver``)."""
