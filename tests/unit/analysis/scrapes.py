"""A server process as an analysis sees it: it counts answers, and says so in the text format."""

from bisect import bisect_left
from itertools import accumulate

from sluice.analysis.exposition import OUTCOMES, Scrape

BOUNDS = (0.05, 0.1, 0.2, 0.4)


class Process:
    """One run of a server process under a pod's name."""

    def __init__(self, started: float = 1000.0) -> None:
        self.started = started
        self.answers = dict.fromkeys(OUTCOMES, 0)
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.split = 0

    def answer(
        self, outcome: str = "ok", n: int = 1, seconds: float = 0.07, *, is_split: bool = False
    ) -> "Process":
        self.answers[outcome] += n
        if outcome != "client_error":
            self.split += n * is_split
            self.buckets[bisect_left(BOUNDS, seconds)] += n
            self.seconds += n * seconds
        return self

    def scrape(self) -> Scrape:
        return Scrape(
            self.started,
            {outcome: float(n) for outcome, n in self.answers.items()},
            BOUNDS,
            tuple(float(n) for n in accumulate(self.buckets)),
            self.seconds,
            float(self.split),
        )

    def write(self) -> str:
        counts = list(accumulate(self.buckets))
        return "".join(
            [
                "# HELP sluice_inference_answers_total Answers.\n",
                "# TYPE sluice_inference_answers_total counter\n",
                *(
                    f'sluice_inference_answers_total{{outcome="{outcome}"}} {n}\n'
                    for outcome, n in self.answers.items()
                ),
                "# TYPE sluice_inference_split_answers_total counter\n",
                f"sluice_inference_split_answers_total {self.split}\n",
                "# TYPE sluice_inference_answer_seconds histogram\n",
                *(
                    f'sluice_inference_answer_seconds_bucket{{le="{bound}"}} {n}\n'
                    for bound, n in zip((*BOUNDS, "+Inf"), counts, strict=True)
                ),
                f"sluice_inference_answer_seconds_sum {self.seconds}\n",
                f"sluice_inference_answer_seconds_count {counts[-1]}\n",
                f"sluice_inference_start_time_seconds {self.started:.3f}\n",
            ]
        )
