"""TensorRT 8.6, 10.3 and later, and 11: plans built, looked into, and run with the state on the device."""
