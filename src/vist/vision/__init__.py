"""Pages in, features of their patches out: vision towers behind one interface."""
