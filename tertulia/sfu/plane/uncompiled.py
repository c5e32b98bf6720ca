"""Stands in for the `cython` module where Cython is not installed: says that this source runs interpreted."""

compiled = False
