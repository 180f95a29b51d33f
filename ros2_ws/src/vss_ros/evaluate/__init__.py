"""How good a model is, on labelled frames and on recordings."""
