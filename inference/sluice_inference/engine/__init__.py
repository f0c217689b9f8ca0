"""From accepted items to model outputs: one bounded queue, one owner thread."""
