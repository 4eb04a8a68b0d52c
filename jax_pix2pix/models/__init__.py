"""Networks, written for 2D and 3D alike: images are [n, *spatial, channels]."""
