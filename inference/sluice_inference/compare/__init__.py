"""`compare`: asks stable and candidate the same, and counts how often they agree. Answers nobody."""
