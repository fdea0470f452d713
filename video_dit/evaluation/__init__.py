"""What `tools/evaluate.py` and `tools/benchmark.py` measure."""
