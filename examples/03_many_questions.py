"""Ask many questions of one document: its pages are encoded and projected once, then shared.

Run: `python examples/03_many_questions.py [MODEL]`
"""

import sys
from importlib.resources import files

import torch

import vist

FACTS = ("The cellar's number is 4071.", "The attic's number is 9356.")
QUESTIONS = ("\n\nThe cellar's number is", "\n\nThe attic's number is")


@torch.inference_mode()
def main(name: str = "vist-nano") -> None:
    """Plant two facts in a page of a book and ask for both in one batch."""
    model, processor = vist.load(name)
    book = files("vist").joinpath("assets/texts/alice_in_wonderland.txt").read_text(encoding="utf-8")
    document = f"{book[2000:2400]} {FACTS[0]} {book[2400:2700]} {FACTS[1]} {book[2700:2900]}"

    pages = processor(context=document)  # without a prompt: pages only
    context = model.encode_context(pages["pixel_values"], pages["ink_mask"])
    cross_kv = model.project_context(context.states)  # keys and values of every layer, once

    prompts = processor(prompt=list(QUESTIONS))
    rows = len(QUESTIONS)
    tokens = model.generate(
        **prompts,
        cross_kv=cross_kv.expand(rows, *cross_kv.shape[1:]),
        cross_mask=context.mask.expand(rows, -1),
        max_new_tokens=6,
        do_sample=False,
    )
    for answer in processor.batch_decode(tokens, skip_special_tokens=True):
        print(answer.strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
