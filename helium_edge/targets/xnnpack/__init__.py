"""The XNNPACK target: a `.pte` for ExecuTorch, emitted from config and store."""
