"""Trains one experiment: python train.py --config=configs/quickstart.py --workdir=runs/quickstart"""

from jaxlm.__main__ import main

if __name__ == "__main__":
    main("train")
