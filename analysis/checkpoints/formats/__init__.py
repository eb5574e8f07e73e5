"""What checkpoint files hold, one kind of file a module: read as data, never run."""
