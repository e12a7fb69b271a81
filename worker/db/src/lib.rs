//! The database of a channel: one dialect a file behind one small trait.
