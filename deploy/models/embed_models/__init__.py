"""Offline pipeline: turns Hugging Face checkpoints into registry versions that a worker serves."""
