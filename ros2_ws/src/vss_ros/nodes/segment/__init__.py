"""The `segment` node."""
