"""Progressive re-initialisation (Shao et al., TPAMI 2021): faces, then parts, are normalised before regression."""
