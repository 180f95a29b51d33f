"""The `count` node."""
