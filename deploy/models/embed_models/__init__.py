"""Offline pipeline: turns Hugging Face checkpoints into registry versions that a worker serves."""

import os

# ONNX Runtime reports home, and looks at this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
