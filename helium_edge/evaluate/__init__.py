"""Benchmarks on the shipped artifact, paired question by question with the original."""
