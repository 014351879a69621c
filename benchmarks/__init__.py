"""Benchmarks: each prints a table of what was measured beside a named peer."""
