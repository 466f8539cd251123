"""Networks: names and files, downloads, cards with their preprocessing, layers and receptive fields."""
