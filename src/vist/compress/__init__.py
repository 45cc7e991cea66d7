"""Features of pages in, a few visual tokens out; and the loss that teaches which content matters."""
