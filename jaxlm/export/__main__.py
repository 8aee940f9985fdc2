"""`python -m jaxlm.export` is `jaxlm export`."""

from jaxlm.__main__ import main

if __name__ == "__main__":
    main("export")
