"""Helium in plain torch: weight names and order, RoPE, and the reference decoder."""
