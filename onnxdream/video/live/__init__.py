"""Live dreams: cameras, streams, files and the screen, in a window, a file, a pipe or a page."""
