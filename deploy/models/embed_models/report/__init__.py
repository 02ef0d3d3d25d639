"""Reports of what was measured: Markdown, and one HTML page that needs nothing else."""
