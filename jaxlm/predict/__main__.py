"""`python -m jaxlm.predict` is `jaxlm predict`."""

from jaxlm.__main__ import main

if __name__ == "__main__":
    main("predict")
