"""The commands, one group a file. A command parses, builds settings, makes one call, prints; it imports inside it."""
