"""Parts of `benchmarks/peers.py`: the same model for every peer, a process each, results and their table."""
