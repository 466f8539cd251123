"""Video in and out: files, pictures, pipes; frames, colours, sound and metadata."""
