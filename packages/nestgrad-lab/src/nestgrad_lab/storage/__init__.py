"""Files that survive a crash: written whole or not at all, hashed, and never loaded when damaged."""
