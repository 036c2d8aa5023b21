"""The ExecuTorch targets: one decoder, lowered to XNNPACK or to CoreML, as methods of one `.pte`."""
