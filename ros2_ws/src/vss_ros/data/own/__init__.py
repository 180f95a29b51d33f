"""Data sets of one's own: a YAML file and what annotation tools export."""
