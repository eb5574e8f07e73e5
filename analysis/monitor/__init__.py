"""Curvature while a model trains: called in the training loop, or by the callbacks for Lightning and Hugging Face."""
