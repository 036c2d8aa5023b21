"""Data that ships with the package: the helium-tiny checkpoint and the evaluation text."""
