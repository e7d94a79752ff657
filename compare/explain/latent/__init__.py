"""Latent differences: what B's region has otherwise than A's, though every number of this input is the same."""
