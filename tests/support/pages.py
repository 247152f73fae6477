"""HTML pages, as the tests read them."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"img", "meta", "link", "br", "wbr", "input"}
Attributes = list[tuple[str, str | None]]


class Page(HTMLParser):
    """Tags and attributes of a page; complains about tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str | None]:
        return [value for key, value in self.attributes if key == name]
