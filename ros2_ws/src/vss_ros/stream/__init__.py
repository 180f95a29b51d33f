"""Frames in, labels out: the state between frames, keyframes, consistency."""
