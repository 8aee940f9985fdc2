"""LDEQ (Micaelli et al., CVPR 2023): heatmaps at an equilibrium, warm-started on videos."""
