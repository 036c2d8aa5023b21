"""helium-edge: Helium checkpoints to verified, quantized, static-shape decoder graphs for phones."""

__version__ = "0.1.0"
