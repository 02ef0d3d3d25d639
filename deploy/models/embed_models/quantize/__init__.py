"""Post-training quantization: calibrate once, then write any 8-bit graph from the statistics."""
