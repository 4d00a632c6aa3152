"""sources/onnx."""
