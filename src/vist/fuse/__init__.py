"""Visual tokens into the decoder LLM, by cross-attention in every layer."""
