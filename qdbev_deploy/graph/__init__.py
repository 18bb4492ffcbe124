"""ONNX files: reading them with guards, walking them, and rewriting them for what a target parses. Needs no torch."""
