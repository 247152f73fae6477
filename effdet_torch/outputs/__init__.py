"""Where files go: checked before the work, written completely or not at all; the cache folder."""
