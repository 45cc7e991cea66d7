"""Readers, objective and critic: what is scored is what was drawn and read; endpoints are asked as OpenAI's are."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vist
from vist.errors import VistError
from vist.eval import ocr
from vist.gateway import image_tokens, resolve_profile
from vist.render import Pages, render
from vist.tune.archive import Found
from vist.tune.critic import Critic, question, read_answer
from vist.tune.genome import SPACE, Genome, Space
from vist.tune.objective import Objective, Score, page_pricing, provider_pricing, take_samples
from vist.tune.readers import PROMPT, EncoderReader, EndpointReader, TesseractReader

ALICE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")
TEXT = ALICE[2000:4000]
GENOME = Genome(font_size=10, row_height=14)


class Parrot:
    """Reads every page right but for one letter that it does not know."""

    name = "parrot"

    def narrow(self, space: Space) -> Space:
        return space

    def read(self, pages: Pages) -> str:
        return pages.text.replace("e", "")


def test_accuracy_is_the_share_of_characters_read_right() -> None:
    objective = Objective(Parrot(), page_pricing(86), [TEXT], TEXT)
    shown = " ".join(TEXT.split())
    assert objective.score(GENOME).accuracy == pytest.approx(1 - shown.count("e") / len(shown), abs=0.005)


def test_what_cannot_be_drawn_counts_as_unread() -> None:
    class Faultless(Parrot):
        def read(self, pages: Pages) -> str:
            return pages.text

    clean, holes = (Objective(Faultless(), page_pricing(86), [text], TEXT) for text in (TEXT, TEXT + "\U0010fffd" * 20))
    assert clean.score(GENOME).accuracy == 1
    assert holes.score(GENOME).accuracy == pytest.approx(1 - 20 / (len(" ".join(TEXT.split())) + 20), abs=1e-3)


def test_tokens_are_those_of_the_pages() -> None:
    style = GENOME.style()
    objective = Objective(Parrot(), page_pricing(86), [TEXT], ALICE[:20_000])
    assert objective.tokens(GENOME, style) == pytest.approx(86 * len(render(ALICE[:20_000], style)) / 20)
    claude = resolve_profile("claude-sonnet-4-5")
    objective = Objective(Parrot(), provider_pricing(claude), [TEXT], ALICE[:20_000])
    pages = len(render(ALICE[:20_000], style))
    most = pages * image_tokens(claude, style.width, style.height) / 20
    assert 0.8 * most <= objective.tokens(GENOME, style) <= most


def test_pages_that_a_provider_shrinks_are_no_use_and_not_read() -> None:
    class Blind(Parrot):
        def read(self, pages: Pages) -> str:
            raise AssertionError("it was read")

    large = Genome(dpi=120, width=768, height=1120, font_size=12, row_height=16)
    objective = Objective(Blind(), provider_pricing(resolve_profile("gpt-4o")), [TEXT], TEXT)
    assert objective.score(large) == Score(0.0, math.inf)


def test_samples_are_spread_and_hang_on_the_seed() -> None:
    samples, long = take_samples(ALICE, 4, 600, 0)
    assert len(samples) == 4 and all(500 < len(sample) <= 600 and sample in ALICE for sample in samples)
    assert len(long) == 30_000 and samples != take_samples(ALICE, 4, 600, 1)[0]
    with pytest.raises(VistError, match="longer text"):
        take_samples("short", 4, 600, 0)
    with pytest.raises(VistError, match="no text"):
        Objective(Parrot(), page_pricing(86), [" "], "\n")


def test_tesseract_reads_large_letters_better_than_tiny_ones() -> None:
    if ocr.why_not():
        pytest.skip(str(ocr.why_not()))
    reader = TesseractReader()
    large, tiny = (
        Objective(reader, page_pricing(1), [TEXT[:250]], TEXT).score(
            Genome(72, 504, 384, font_size=size, row_height=14)
        )
        for size in (12, 6)
    )
    assert large.accuracy > 0.95 and large.accuracy > tiny.accuracy


def test_the_encoder_reads_pages_of_its_own_size_only() -> None:
    from vist.eval.reader import Reader

    model, processor = vist.load("vist-nano")
    reader = EncoderReader(Reader(model, processor))
    space = reader.narrow(SPACE)
    assert space["width"] == space["height"] == (224,) and space["row_height"] == (14,)
    genome = Genome(72, 224, 224, font_size=10, row_height=14, margin=1, newline="space", tab_width=1)
    objective = Objective(reader, page_pricing(86), [TEXT[:800]], TEXT)
    assert objective.score(genome).accuracy > 0.9
    inverted = Genome(**{**vars(genome), "font_size": 5 + 1})
    assert objective.score(inverted).accuracy < objective.score(genome).accuracy

    class Eyeless:
        vision_tower = object()

    with pytest.raises(VistError, match="no reading head"):
        EncoderReader(Reader(Eyeless(), processor))


class Chat(BaseHTTPRequestHandler):
    """A server of chat completions that notes what it was asked and answers what it was told to."""

    asked: list[dict[str, Any]] = []
    keys: list[str] = []
    status, answer = 200, "{}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Chat.asked.append({"path": self.path, **json.loads(body)})
        Chat.keys.append(self.headers.get("authorization", ""))
        said = Chat.answer.encode()
        self.send_response(Chat.status)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), Chat)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    Chat.asked, Chat.keys, Chat.status, Chat.answer = [], [], 200, "{}"
    yield f"http://127.0.0.1:{httpd.server_port}/v1"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def said(text: object) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def test_an_endpoint_is_sent_the_pages_as_drawn(server: str) -> None:
    Chat.answer = said("read")
    pages = render(TEXT, GENOME.style())
    assert EndpointReader(server, "some-vlm", "secret").read(pages) == " ".join(["read"] * len(pages))
    assert [ask["path"] for ask in Chat.asked] == ["/v1/chat/completions"] * len(pages)
    assert set(Chat.keys) == {"Bearer secret"} and Chat.asked[0]["model"] == "some-vlm"
    image, text = Chat.asked[0]["messages"][0]["content"]
    png = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    sent, drawn = np.asarray(Image.open(io.BytesIO(png))), pages.pixels[0]
    assert np.array_equal(sent, drawn[: sent.shape[0], : sent.shape[1]]) and text["text"] == PROMPT
    assert (drawn == 255).sum() - (sent == 255).sum() == drawn.size - sent.size > 0  # all that was left out is paper


@pytest.mark.parametrize(
    ("status", "answer", "sentence"),
    [
        (401, "{}", "answered 401"),
        (500, "no", "answered 500"),
        (200, "no JSON", "not OpenAI's"),
        (200, '{"choices": []}', "not OpenAI's"),
        (200, said(None), "without a text"),
    ],
)
def test_an_endpoint_that_fails_is_one_sentence(server: str, status: int, answer: str, sentence: str) -> None:
    Chat.status, Chat.answer = status, answer
    with pytest.raises(VistError, match=sentence):
        EndpointReader(server, "some-vlm").read(render("A page.", GENOME.style()))
    proposals = Critic(server, "some-llm").propose([], SPACE, 3)
    assert proposals.genomes == () and sentence in proposals.remark


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(VistError, match="could not be asked"):
        EndpointReader("http://127.0.0.1:9/v1", "some-vlm").read(render("A page.", GENOME.style()))


def test_the_critic_sees_the_scores_and_its_styles_are_brought_into_the_space(server: str) -> None:
    styles = [{"font_size": 8, "row_height": 10, "kerning": 3}, {"dpi": 73}, {"kerning": 1}, 7, {"font_size": 8.2}]
    Chat.answer = said(f"[Larger] letters help.\n```json\n{json.dumps(styles)}\n```")
    found = [Found(GENOME, Score(0.91234, 321.4)), Found(Genome(), Score(0.0, math.inf))]
    proposals = Critic(server, "some-llm").propose(found, SPACE, 2)
    assert proposals.genomes == (Genome(font_size=8, row_height=10), Genome()) and not proposals.remark
    asked = Chat.asked[0]["messages"][0]["content"]
    assert asked == question(found, SPACE, 2)
    assert '"accuracy": 0.9123, "tokens": 321' in asked and "Infinity" not in asked


@pytest.mark.parametrize("answer", ["", "no list", "[1, 2]", "[", "[" * 5000])
def test_an_answer_without_styles_proposes_nothing(answer: str) -> None:
    with pytest.raises(VistError, match="no JSON list"):
        read_answer(answer, SPACE)
