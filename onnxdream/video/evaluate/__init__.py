"""How steady a dreamed video is: metrics and their report."""
