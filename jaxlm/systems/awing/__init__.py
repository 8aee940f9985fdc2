"""Adaptive Wing (Wang et al., ICCV 2019): a boundary-aware stacked hourglass with CoordConv."""
