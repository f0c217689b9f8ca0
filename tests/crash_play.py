"""Plays scenarios with an operator that is killed, and says where the end is another than without.

Many services at once: each stands still at its own moment (`mortal_operator`), then one SIGKILL is for all.
Clients ask every service all the time, through the route simulator.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.cluster import Cluster
from tests.audit import AuditLog
from tests.crash_scenarios import SCENARIOS, Act, Scenario
from tests.endstate import find_differences, name_revisions, normalise
from tests.operator_process import ROOT, USER, OperatorProcess
from tests.plane import Plane
from tests.space import Space, say
from tests.traffic_load import Load, Report
from tests.waiting import wait_for

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
RATE = 2.0  # requests a second for each service
SECONDS = 180.0
SETTLE_SECONDS = 30.0
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

    clean: dict[str, Clean]  # what was known before, and what was learnt besides
    deleted: dict[Moment, Deleted] = field(default_factory=dict)
    reached: dict[Moment, str] = field(default_factory=dict)  # the write at which it was killed
    failures: dict[Moment, list[str]] = field(default_factory=dict)
    requests: int = 0
    late: int = 0  # of them: answered too late, by a machine that was too slow


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
        """Do what is due; whether all is done, and the service is where its scenario ends."""
        if not self.act(obj):
            return False
        status = obj.get("status", {})
        rollout, stable = status.get("rollout", {}), status.get("stable", {})
        return bool(
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
        """How each scenario ends without a crash; an AssertionError where clients met an error."""
        outcome = self.play([Moment(name) for name in names], {})
        for moment, failures in outcome.failures.items():
            assert not failures, f"{moment.scenario} without a crash: {failures}"
        return outcome.clean

    def play(self, moments: Sequence[Moment], clean: Mapping[str, Clean]) -> Outcome:
        """The operator killed once, each service at its moment; what differs from `clean` is a failure.

        Scenarios that are not in `clean` are learnt besides, from services that are over by then.
        """
        unknown = dict.fromkeys(m.scenario for m in moments if m.scenario not in clean)
        chosen = [*map(Moment, unknown), *(moment for moment in moments if moment.number)]
        space = Space(self._plane, f"c-{uuid.uuid4().hex[:8]}")
        space.make()
        try:
            return self._play(space, chosen, Outcome(dict(clean)))
        finally:
            self._operator.kill()
            self._operator.enter_by()
            space.remove()

    def _play(self, space: Space, moments: Sequence[Moment], outcome: Outcome) -> Outcome:
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
        stuck = self._drive(space, players, Player.act)
        assert not stuck, f"before anybody was killed: {stuck}"
        for player in players.values():
            wait_alone(space, player)
        before = self._count_deletes(space, players, audit)

        def count_deletes() -> dict[Moment, Deleted]:
            now = self._count_deletes(space, players, audit)
            return {moment: found - before[moment] for moment, found in now.items()}

        hosts = [player.host for player in players.values()]
        with Load(self._cluster.enter, address, hosts, RATE * len(hosts)) as load:
            armed.touch()
            for player in players.values():
                player.begin(player.scenario.acts)
            halted: set[str] = set()
            stuck = self._drive(
                space,
                players,
                lambda player, obj: player.name in halted or player.is_over(obj),
                lambda: halted.update(read_halts(notes)),
            )
            assert not [moment for moment in stuck if not moment.number], stuck
            self._learn(space, players, notes, count_deletes, outcome)
            if any(moment.number for moment in moments):
                self._operator.kill()
                self._operator.enter_by()
                self._operator.start()
                self._operator.wait_until_working()
                stuck |= self._drive(space, players, Player.is_over)
                self._compare(space, players, outcome)
        for moment, where in stuck.items():
            outcome.failures.setdefault(moment, []).append(f"never got to its end: {where}")
        self._judge(players, outcome, load.report)
        for moment, found in count_deletes().items():
            extra = found - outcome.clean[moment.scenario].deleted
            spare = players[moment].scenario.spare
            besides = [f"{kind} {name}" for kind, name in extra if name != spare]
            if besides:
                outcome.failures[moment].append(f"deleted besides: {', '.join(besides)}")
        outcome.reached = read_reached(notes, players)
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
    ) -> dict[Moment, str]:
        """Let all play until each is done; returns where those stand that are not in time."""
        left = dict.fromkeys(players, "")

        def are_done() -> bool:
            look()
            objects = {
                obj["metadata"]["name"]: obj
                for obj in space.plane.list("InferenceService", space.name)
            }
            for moment in list(left):
                player = players[moment]
                left[moment] = say(objects[player.name])
                if is_done(player, objects[player.name]):
                    del left[moment]
            return not left

        with suppress(AssertionError):
            wait_for(are_done, what="every service is where it should be", seconds=SECONDS)
        return left

    def _learn(
        self,
        space: Space,
        players: Mapping[Moment, Player],
        notes: Path,
        count_deletes: Callable[[], dict[Moment, Deleted]],
        outcome: Outcome,
    ) -> None:
        """How those ended that nobody was to stop."""
        for moment, player in players.items():
            if moment.number:
                continue
            wait_alone(space, player)
            end = normalise(space, player.name)
            writes = count_writes(notes, player.name)
            outcome.clean[moment.scenario] = Clean(end, count_deletes()[moment], writes)

    def _compare(self, space: Space, players: Mapping[Moment, Player], outcome: Outcome) -> None:
        """Wait until every end is as without a crash; what is not so in time is a failure."""
        left: dict[Moment, list[str]] = {moment: [] for moment in players}

        def are_settled() -> bool:
            for moment in list(left):
                end = normalise(space, players[moment].name)
                left[moment] = find_differences(outcome.clean[moment.scenario].end, end)
                if not left[moment]:
                    del left[moment]
            return not left

        try:
            wait_for(are_settled, what="every end is as without a crash", seconds=SETTLE_SECONDS)
        except AssertionError:
            for moment, differences in left.items():
                outcome.failures[moment] = differences

    def _judge(self, players: Mapping[Moment, Player], outcome: Outcome, report: Report) -> None:
        """What clients met, beside what their candidate was told to do to them."""
        outcome.late = report.late()
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


def wait_alone(space: Space, player: Player) -> None:
    """Return once nothing is left but one revision and the front Service."""
    counts = {"Deployment": 1, "Service": 2, "PodDisruptionBudget": 1}

    def is_alone() -> bool:
        return all(len(space.children(kind, player.name)) == n for kind, n in counts.items())

    wait_for(is_alone, what=f"{player.scenario.name} leaves one revision")


def read_halts(notes: Path) -> set[str]:
    """The services that stand still."""
    return {line.split(" ")[1] for line in notes.read_text().splitlines() if line[:5] == "halt "}


def read_reached(notes: Path, players: Mapping[Moment, Player]) -> dict[Moment, str]:
    """The write before or after which each was killed."""
    names = {player.name: moment for moment, player in players.items()}
    lines = [line.split(" ", 4) for line in notes.read_text().splitlines()]
    return {names[line[1]]: line[4] for line in lines if line[0] == "halt"}


def count_writes(notes: Path, name: str) -> int:
    """The writes for a service so far."""
    lines = [line.split(" ") for line in notes.read_text().splitlines()]
    return sum(line[0] == "write" and line[1] == name for line in lines)
