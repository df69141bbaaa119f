"""Measurements that the README quotes, each repeatable with one command: `python -m benchmarks list`."""
