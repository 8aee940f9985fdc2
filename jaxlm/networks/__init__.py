"""Networks: Flax Linen modules and pure functions over their variables."""
