"""The folder of one training: config, checkpoints, metric log, and how they are restored."""
