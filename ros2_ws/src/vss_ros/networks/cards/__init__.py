"""What lies on disk: model cards, weights, checkpoints of others; and the model that they make."""
