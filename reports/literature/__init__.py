"""What the papers show and claim, and whether it reproduces."""
