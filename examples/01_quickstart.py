"""Read a long text as pages and continue a short one.

Run: `python examples/01_quickstart.py [MODEL]`, where MODEL is a packaged name, a folder or a Hub id of a VIST model.
"""

import sys
from importlib.resources import files

import vist


def main(name: str = "vist-nano") -> None:
    """Give the model the beginning of a book as pages, and the next words as text."""
    model, processor = vist.load(name)
    book = files("vist").joinpath("assets/texts/alice_in_wonderland.txt").read_text(encoding="utf-8")
    start = book.index("Alice was beginning")

    inputs = processor(context=book[start : start + 2000], prompt="The White Rabbit")
    tokens = model.generate(**inputs, max_new_tokens=24, do_sample=False)

    pages = inputs["pixel_values"].shape[1]
    as_text = len(processor.tokenizer(book[start : start + 2000]).input_ids)
    print(f"2,000 characters: {as_text} tokens as text, {pages * model.config.num_visual_tokens} visual tokens at most")
    print(processor.decode(tokens[0], skip_special_tokens=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
