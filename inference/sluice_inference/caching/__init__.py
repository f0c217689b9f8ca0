"""Answers that were given before: by content, in this process and in a Redis that replicas share."""
