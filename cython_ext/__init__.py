"""Kernels: see docs/ARCHITECTURE.md. Each is called by exactly one module of the core."""
