"""Coarse grouping of particles before any alignment: descriptors, and groups of them."""
