"""Averages the layers of several trainings: `python -m embed_models.distill.average --help`."""

import argparse
from pathlib import Path

from embed_models.distill.student import average_layers
from embed_models.errors import CheckpointError


def main() -> None:
    """Write the mean of the layers that are given."""
    parser = argparse.ArgumentParser(
        prog="python -m embed_models.distill.average", description=__doc__
    )
    parser.add_argument("layers", type=Path, nargs="+", help="layers.safetensors of a training")
    parser.add_argument("--out", type=Path, required=True, help="the layers.safetensors to write")
    options = parser.parse_args()
    try:
        average_layers(options.layers, options.out)
    except CheckpointError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
