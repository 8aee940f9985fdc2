"""Exceptions that a program catches and prints as one sentence."""


class MissingSplit(ValueError):
    """The data set does not have the split that was asked for."""


class BadSample(ValueError):
    """An annotation or picture that cannot be used; the message names it and the remedy."""


class NonFiniteError(FloatingPointError):
    """Loss or gradient is not finite, or must not be trusted."""


def first_line(error: Exception) -> str:
    """The first line of an exception's text."""
    return str(error).partition("\n")[0]
