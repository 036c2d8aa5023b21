"""ExecuTorch's file format: `.pte` programs, and the graphs of its XNNPACK backend within them.

It knows nothing of models, and needs no executorch: FlatBuffers are read and written by their schemas.
"""
