"""Tables larger than memory: what traffic asks for, how large a cache must be, and the cache itself."""
