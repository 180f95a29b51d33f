"""Rendered streets: scenes, their geometry and their paint."""
