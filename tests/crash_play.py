"""Plays scenarios with an operator that is killed, and says where the end is another than without.

Many services at once: each stands still at its own moment (`mortal_operator`), then one SIGKILL is for all.
Clients ask every service all the time, through the route simulator.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.cluster import Cluster
from tests.audit import AuditLog
from tests.crash_scenarios import SCENARIOS, Act, Scenario
from tests.endstate import name_revisions, normalise
from tests.operator_process import ROOT, USER, OperatorProcess
from tests.plane import Plane
from tests.space import Space, say
from tests.traffic_load import Load, Report
from tests.waiting import wait_for

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
RATE = 4.0  # requests a second for each service
SECONDS = 180.0
GUARDED = ("deployments", "services", "httproutes")
Deleted = Counter[tuple[str, str]]


@dataclass(frozen=True, order=True)
class Moment:
    """Just before or after a write of a scenario, by number; 0 is never."""

    scenario: str
    number: int = 0
    when: str = "before"

    def __str__(self) -> str:
        return f"{self.scenario}:{self.number}:{self.when}"


@dataclass(frozen=True)
class Clean:
    """How a scenario ends when nobody is killed, and in how many writes."""

    end: dict[str, Any]
    deleted: Deleted
    writes: int


@dataclass
class Outcome:
    """What came of a batch."""

    ends: dict[Moment, dict[str, Any]] = field(default_factory=dict)
    deleted: dict[Moment, Deleted] = field(default_factory=dict)
    writes: dict[Moment, int] = field(default_factory=dict)
    reached: dict[Moment, str] = field(default_factory=dict)  # the write at which it was killed
    failures: dict[Moment, list[str]] = field(default_factory=dict)
    requests: int = 0


def list_moments(clean: Mapping[str, Clean]) -> list[Moment]:
    """Before and after every write of every scenario."""
    return [
        Moment(name, number, when)
        for name, found in clean.items()
        for number in range(1, found.writes + 1)
        for when in ("before", "after")
    ]


class Player:
    """One service in its scenario."""

    def __init__(self, space: Space, name: str, scenario: Scenario) -> None:
        self.name = name
        self.scenario = scenario
        self._space = space
        self._acts: list[Act] = []

    @property
    def host(self) -> str:
        return f"{self.name}.example.com"

    def create(self) -> None:
        """The service, with 1.0.0."""
        service = self._space.service(self.name).scales(2).traffic(self.host, timeout="1s")
        self._space.create(self.scenario.build(service))

    def begin(self, acts: Sequence[Act]) -> None:
        self._acts = list(acts)

    def act(self, obj: Mapping[str, Any]) -> bool:
        """Do what is due; whether all is done."""
        status = obj.get("status", {})
        is_seen = status.get("observedGeneration") == obj["metadata"]["generation"]
        if self._acts and is_seen and self._acts[0][0](status):
            self._acts.pop(0)[1](self._space, self.name)
            return False
        return not self._acts

    def is_over(self, obj: Mapping[str, Any]) -> bool:
        """Whether the service is where its scenario ends, and its children too."""
        status = obj.get("status", {})
        rollout, stable = status.get("rollout", {}), status.get("stable", {})
        return (
            status.get("observedGeneration") == obj["metadata"]["generation"]
            and rollout.get("state") == self.scenario.end
            and stable.get("version") == self.scenario.stable
        )


class Crasher:
    """Runs batches, each in a namespace of its own."""

    def __init__(
        self, cluster: Cluster, plane: Plane, operator: OperatorProcess, folder: Path
    ) -> None:
        self._cluster = cluster
        self._plane = plane
        self._operator = operator
        self._folder = folder
        self._scenarios = {scenario.name: scenario for scenario in SCENARIOS}

    def learn(self, names: Sequence[str]) -> dict[str, Clean]:
        """Every scenario once without a crash."""
        found = self.play([Moment(name) for name in names], {})
        for moment, failures in found.failures.items():
            assert not failures, f"without any crash: {moment.scenario}: {failures}"
        return {
            moment.scenario: Clean(end, found.deleted[moment], found.writes[moment])
            for moment, end in found.ends.items()
        }

    def play(self, moments: Sequence[Moment], clean: Mapping[str, Clean]) -> Outcome:
        """The operator killed once, each service at its moment; what differs from `clean` is a failure."""
        space = Space(self._plane, f"c-{uuid.uuid4().hex[:8]}")
        space.make()
        try:
            return self._play(space, moments, clean)
        finally:
            self._operator.kill()
            self._operator.enter_by()
            space.remove()

    def _play(self, space: Space, moments: Sequence[Moment], clean: Mapping[str, Clean]) -> Outcome:
        address = space.make_gateway()
        space.register(*VERSIONS)
        players = {
            moment: Player(space, f"c{number:03}", self._scenarios[moment.scenario])
            for number, moment in enumerate(moments)
        }
        armed, notes = self._mark(space, players)
        audit = AuditLog(self._cluster.audit_log, USER)
        for player in players.values():
            player.create()
        for player in players.values():
            space.wait_ready("1.0.0", player.name, seconds=SECONDS)
        for player in players.values():
            player.begin(player.scenario.before)
        self._drive(space, players, lambda player, obj: player.act(obj))
        hosts = [player.host for player in players.values()]
        outcome = Outcome()
        before = self._count_deletes(space, players, audit)
        with Load(self._cluster.enter, address, hosts, RATE * len(hosts)) as load:
            armed.touch()
            for player in players.values():
                player.begin(player.scenario.acts)
            halted: set[str] = set()

            def is_halted_or_over(player: Player, obj: Mapping[str, Any]) -> bool:
                return player.name in halted or (player.act(obj) and player.is_over(obj))

            self._drive(space, players, is_halted_or_over, lambda: halted.update(read_halts(notes)))
            if any(moment.number for moment in moments):
                self._operator.kill()
                self._operator.enter_by()
                self._operator.start()
                self._operator.wait_until_working()
                self._drive(
                    space, players, lambda player, obj: player.act(obj) and player.is_over(obj)
                )
            self._settle(space, players, clean, outcome)
        self._judge(space, players, clean, outcome, load.report)
        for moment, found in self._count_deletes(space, players, audit).items():
            outcome.deleted[moment] = found - before[moment]
            if moment.number:
                extra = outcome.deleted[moment] - clean[moment.scenario].deleted
                outcome.failures[moment] += [f"deleted besides: {dict(extra)}"] if extra else []
        read_notes(notes, players, outcome)
        return outcome

    def _mark(self, space: Space, players: Mapping[Moment, Player]) -> tuple[Path, Path]:
        """Start the operator with its moments."""
        plan = self._folder / f"{space.name}.json"
        armed, notes = plan.with_suffix(".armed"), plan.with_suffix(".notes")
        notes.touch()
        wish = {"namespace": space.name, "armed": str(armed), "notes": str(notes)}
        wish["moments"] = {  # type: ignore[assignment]  # not a path
            player.name: [moment.number, moment.when] for moment, player in players.items()
        }
        plan.write_text(json.dumps(wish))
        self._operator.kill()
        self._operator.enter_by(str(ROOT / "tests" / "mortal_operator.py"), str(plan))
        self._operator.start()
        self._operator.wait_until_working()
        return armed, notes

    def _drive(
        self,
        space: Space,
        players: Mapping[Moment, Player],
        is_done: Callable[[Player, Mapping[str, Any]], bool],
        look: Callable[[], object] = lambda: None,
    ) -> None:
        """Let all play until each is done."""
        done: set[str] = set()

        def are_done() -> bool:
            look()
            objects = {
                obj["metadata"]["name"]: obj
                for obj in space.plane.list("InferenceService", space.name)
            }
            for player in players.values():
                if player.name not in done and is_done(player, objects[player.name]):
                    done.add(player.name)
            left = [(m, p) for m, p in players.items() if p.name not in done]
            assert not left, "; ".join(f"{m}: {say(objects[p.name])}" for m, p in left[:5])
            return True

        wait_for(are_done, what="every service is where it should be", seconds=SECONDS)

    def _settle(
        self,
        space: Space,
        players: Mapping[Moment, Player],
        clean: Mapping[str, Clean],
        outcome: Outcome,
    ) -> None:
        """Wait until every end is as without a crash; what is not so in time is what came of it."""
        left = dict(players)

        def are_settled() -> bool:
            for moment, player in list(left.items()):
                end = outcome.ends[moment] = normalise(space, player.name)
                wanted = clean[moment.scenario].end if moment.number else None
                is_alone = len(end["children"]["Deployment"]) == 1
                if end == wanted or (wanted is None and is_alone):
                    del left[moment]
            return not left

        try:
            wait_for(are_settled, what="every end is as without a crash", seconds=20)
        except AssertionError:
            for moment in left:
                wanted = clean[moment.scenario].end if moment.number else {}
                outcome.failures[moment] = find_differences(wanted, outcome.ends[moment])

    def _judge(
        self,
        space: Space,
        players: Mapping[Moment, Player],
        clean: Mapping[str, Clean],
        outcome: Outcome,
        report: Report,
    ) -> None:
        """What clients met, beside what their candidate was told to do to them."""
        for moment, player in players.items():
            outcome.requests += report.count(player.host)
            broken = report.failed(player.host)
            if moment.scenario != "auto-rollback":
                broken += [f"{key}: {n}" for key, n in report.errors(player.host).items()]
            outcome.failures.setdefault(moment, []).extend(broken)
            if not report.count(player.host):
                outcome.failures[moment].append("no client asked")

    def _count_deletes(
        self, space: Space, players: Mapping[Moment, Player], audit: AuditLog
    ) -> dict[Moment, Deleted]:
        """What the operator deleted of each service so far, by kind and revision."""
        found: dict[Moment, Deleted] = {}
        writes = [
            one
            for one in audit.writes(space.name)
            if one.verb == "delete" and one.resource in GUARDED and one.code == 200
        ]
        for moment, player in players.items():
            labels = name_revisions(space, player.name)
            found[moment] = Counter(
                (one.resource, labels.get(one.name.rpartition("-")[2], one.name))
                for one in writes
                if one.name == player.name or one.name.startswith(f"{player.name}-")
            )
        return found


def read_halts(notes: Path) -> set[str]:
    """The services that stand still."""
    return {line.split(" ")[1] for line in notes.read_text().splitlines() if line[:5] == "halt "}


def read_notes(notes: Path, players: Mapping[Moment, Player], outcome: Outcome) -> None:
    """How many writes each service had, and at which it was killed."""
    names = {player.name: moment for moment, player in players.items()}
    for line in notes.read_text().splitlines():
        sort, name, number, what = line.split(" ", 3)
        if sort == "halt":
            outcome.reached[names[name]] = what
        else:
            outcome.writes[names[name]] = int(number)


def find_differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where two end states differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted({*wanted, *found})
            for line in find_differences(wanted.get(key), found.get(key), f"{path}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [
            line
            for index, (one, other) in enumerate(zip(wanted, found, strict=True))
            for line in find_differences(one, other, f"{path}[{index}]")
        ]
    return [] if wanted == found else [f"{path}: {found!r}, without a crash {wanted!r}"]
