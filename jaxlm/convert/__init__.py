"""Released weights of other code, as workdirs of this package."""
