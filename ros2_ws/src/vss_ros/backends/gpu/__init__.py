"""Runtimes and engines that need CUDA."""
