"""A study's numbers as data frames and as cells that a person reads."""
