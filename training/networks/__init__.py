"""Networks by the names that papers use."""
