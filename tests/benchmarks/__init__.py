"""Benchmarks: ``python -m tests.benchmarks [name ...]`` prints a table of medians and ratios.

They compare within one run and on one machine: every bound is a ratio, none is a number of seconds.
"""
