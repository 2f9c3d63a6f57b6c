"""Particles with poses to and from other packages' files (docs/CONVENTIONS.md has the table).

`conventions` holds the formulas and touches no files; the other modules read and write one format
each. All of them speak `tables.ParticleTable`: RELION's columns, and poses through its `poses`.
"""
