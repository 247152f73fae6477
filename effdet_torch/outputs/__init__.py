"""Where results go: checked before the work, written completely or not at all."""
