"""This suite beside its peers."""
