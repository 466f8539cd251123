"""What a network learned: activations as pictures, feature visualisation, and the atlas of both."""
