"""delineate: segmentation losses, exact and fast in 2D and 3D, and one command that compares them on your own data."""

__version__ = "0.1.0"
