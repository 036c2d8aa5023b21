"""Apple's model packages: MIL functions, weights and what lies around them, as ExecuTorch carries them.

It knows nothing of models. Of coremltools it needs the protobuf messages alone.
"""
