"""The pages: tables and links, as a reader's renderer takes them."""

from __future__ import annotations

import re

import pytest
from fixtures.paths import ROOT

PAGES = [
    page for folder in ("", "docs", "bench", "calibration") for page in sorted((ROOT / folder).glob("*.md"))
]
RULE = re.compile(r"\s*\|( *:?-+:? *\|)+\s*")


def cells(line: str) -> int:
    """Bars within code and escaped ones part nothing."""
    return re.sub(r"`[^`]*`|\\\|", "", line).count("|") - 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_has_a_head_and_rows_of_its_width(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^[ ]*\|.*\n?)+", text, flags=re.MULTILINE):
        head, rule, *rows = table.splitlines()
        assert RULE.fullmatch(rule), head
        assert {cells(line) for line in (rule, *rows)} == {cells(head)}, head


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link
