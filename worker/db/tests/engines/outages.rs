//! Servers that stop, die, fall silent, turn read-only, are full, or are not who they should be.
