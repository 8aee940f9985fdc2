"""Workdir, the folder of one training: its config, checkpoints and metric log, and how they are restored."""
