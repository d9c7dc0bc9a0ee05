"""Games of several players: what they are, what their players descend, and how they are played."""
