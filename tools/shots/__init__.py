"""What `tools/screenshots.py` is made of.

`display`, `pictures`, `project` (runs to look at), `widgets` (of Scipion's windows), and `tour`,
which uses them.
"""
