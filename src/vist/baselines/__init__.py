"""Published methods that VIST is compared with, one per file, behind VIST's own interface."""
