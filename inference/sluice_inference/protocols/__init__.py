"""Bodies of requests and answers, as typed structures. No I/O."""
