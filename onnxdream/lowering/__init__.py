"""What a finished graph needs on the engine it is built for: one family of operators a file."""
