"""What every picture shares: canvas, scales, appearance, the study's data."""
