"""`vss watch`: a live page of running nodes."""
