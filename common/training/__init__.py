"""Training a masked network: protocols, the loop, one step of it, what happens around the steps."""
