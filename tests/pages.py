"""A page as a browser would see it."""

from __future__ import annotations

import html.parser
import re

EVENT_HANDLER = re.compile(r"on\w+")
ADDRESSES = ("src", "href", "xlink:href", "srcset", "data", "action")


class Page(html.parser.HTMLParser):
    """Tags, ids, labels, everything it would request, its policy, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.ids, self.requests, self.labels, self.words = [], [], [], [], []
        self.policy = ""
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not EVENT_HANDLER.fullmatch(name), f"{tag} has {name}"
            if name == "id":
                self.ids.append(value)
            if name in ADDRESSES:
                self.requests.append(value)
            if name == "aria-label":
                self.labels.append(value)
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def is_inert(self) -> bool:
        """Whether nothing in it runs and nothing is fetched."""
        return not {"script", "link", "iframe", "object", "embed", "img", "base"} & {*self.tags}

    @property
    def is_closed(self) -> bool:
        """Whether every id is unique, and every inner reference has its target."""
        inner = {request[1:] for request in self.requests if request.startswith("#")}
        return len(self.ids) == len({*self.ids}) and inner <= {*self.ids}
