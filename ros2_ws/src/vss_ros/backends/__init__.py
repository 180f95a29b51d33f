"""Runtimes for a network's stages; see `choose`."""
