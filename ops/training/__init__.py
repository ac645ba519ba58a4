"""Training of E0 and of E1/E2 on a frozen generator: data, losses, loops."""
