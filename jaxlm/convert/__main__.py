"""`python -m jaxlm.convert` is `jaxlm convert`."""

from jaxlm.__main__ import main

if __name__ == "__main__":
    main("convert")
