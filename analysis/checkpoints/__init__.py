"""From files and names to model, samples and loss."""
