"""What turns a model into files for a machine, and measures it there."""
