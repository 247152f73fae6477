"""One verification as terminal table, Markdown, HTML, JSON and JUnit."""
