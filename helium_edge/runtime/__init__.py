"""Running what was exported: the Runner protocol, ONNX Runtime, sampling and the generate loop."""
