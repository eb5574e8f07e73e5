"""Long-tailed data sets: files to labelled images."""
