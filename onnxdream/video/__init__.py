"""Video: the temporal core, its optical flow and frame formats."""
