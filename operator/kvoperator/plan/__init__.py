"""Pure: from what is wanted and what was seen to the one thing to do next."""
