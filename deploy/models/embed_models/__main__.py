"""Lets `python -m embed_models` do what the `embed-models` command does."""

import sys

from embed_models.cli import main

sys.exit(main())
