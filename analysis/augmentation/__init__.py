"""The control that tells curvature from augmentation noise."""
