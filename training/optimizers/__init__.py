"""Plain steps and the SAM family around any torch optimizer."""
