"""Which arm next: exploring and exploiting where an action has no consequence but its reward."""
