"""Other libraries' environments, played as they are."""
