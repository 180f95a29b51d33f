"""Labelled frames and clips, recordings, and the measures taken on them."""
