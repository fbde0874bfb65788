"""Models to ask, by HTTP or in this process, and the store of what they said."""
