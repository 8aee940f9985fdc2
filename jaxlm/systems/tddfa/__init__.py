"""3DDFA_V2 (Guo et al., ECCV 2020): parameters of a 3D face, meta-joint optimisation, short videos of stills."""
