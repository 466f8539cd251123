"""Video: frames from files, pictures and pipes, and back into them."""
