"""Video jobs: chunks, checkpoints and the pipeline from decoder to encoder."""
