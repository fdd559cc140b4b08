"""The heavy computations behind the losses, as custom ops."""
