"""Evaluates a workdir: python eval.py --workdir=runs/quickstart [--data=own:train --root=faces.csv]"""

from jaxlm.__main__ import main

if __name__ == "__main__":
    main("eval")
