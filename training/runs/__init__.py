"""Recipes, runs and studies: the training loop and what it leaves on disk."""
