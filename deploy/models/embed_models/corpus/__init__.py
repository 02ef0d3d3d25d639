"""Text to calibrate and to validate with: how it was chosen, and how it is read."""
