"""The ONNX target: graphs of about 100 kB each over one weights file, built with onnx-ir from config and store."""
