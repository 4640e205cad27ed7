"""A room of learners: one server for all, who is how far, and a fresh start."""
