"""The dream: step graphs, octaves and tiles."""
