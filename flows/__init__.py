"""What runs in which order, with which parameters; no logic."""
