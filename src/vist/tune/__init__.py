"""The search for a page style: which pages a reader reads best for the fewest tokens.

Reading order: `genome` (what is varied), `readers` (who reads), `objective` (how a style is scored), `archive` (which
scores none beats), `population` (how the next styles come about), `critic` (a language model that proposes some), `run`
(the search, its log and its resumption), `plot`. Source: the LLM-driven genetic search of Glyph, arXiv 2510.17800.
"""
