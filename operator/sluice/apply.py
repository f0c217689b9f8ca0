"""Carries a plan out: ordered, idempotent writes, each guarded by what was observed.

It decides nothing.  What the API server refuses comes back as a Trouble that says which child and why;
what may work later is raised for the queue.
"""

import logging
from copy import deepcopy
from dataclasses import dataclass, field

from sluice import labels, names
from sluice.actions import Action, Apply, Delete, is_satisfied
from sluice.caches import KINDS, Caches
from sluice.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from sluice.observe import describe_foreign, is_owned
from sluice.resources.metadata import Owner
from sluice.runtime.api import Api
from sluice.runtime.kinds import Obj
from sluice.world import CONTROLLER_REVISION, DEPLOYMENT, HTTP_ROUTE, JOB, SERVICE, Trouble

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What came of a plan's actions.

    `trouble` is a refusal that only a person ends; `error` one to be raised again once what was done
    has been told.
    """

    done: list[Action] = field(default_factory=list)
    trouble: Trouble | None = None
    error: ApiError | None = None


class Applier:
    """Writes children.  It remembers only which of them won't become as we want (see `_settle`)."""

    def __init__(self, api: Api, caches: Caches) -> None:
        self._api = api
        self._caches = caches
        self._settled: dict[str, tuple[str, str]] = {}

    async def carry_out(self, owner: Owner, actions: tuple[Action, ...]) -> Outcome:
        """Each action in order.

        A refusal is of that child alone, and the others still get what they need; but nothing is taken
        away in a pass in which something could not be made.  An error ends it.
        """
        outcome = Outcome()
        for action in actions:
            if isinstance(action, Apply) and self._is_settled(action):
                continue
            try:
                match action:
                    case Apply():
                        trouble = await self._apply(owner, action)
                    case Delete() if outcome.trouble is not None:
                        continue
                    case Delete():
                        trouble = None
                        if not await self._delete(owner, action):
                            continue
            except (Forbidden, Invalid) as error:
                if error.has_cause("NamespaceTerminating"):
                    outcome.error = error
                    return outcome
                name = _name_of(action)
                trouble = Trouble("ChildRefused", f"{action.kind} {name}: {error.message}")
            except ApiError as error:
                outcome.error = error
                return outcome
            if trouble is None:
                outcome.done.append(action)
            outcome.trouble = outcome.trouble or trouble
        return outcome

    async def _apply(self, owner: Owner, action: Apply) -> Trouble | None:
        kind, name = KINDS[action.kind], action.manifest["metadata"]["name"]
        body = deepcopy(action.manifest)
        if action.observed is None and labels.FRONT in body["metadata"]["labels"]:
            # The one child with a name that people choose too.  A Service of theirs need not
            # contradict ours in any field, and an apply would then quietly make it ours.
            try:
                found = await self._api.get(kind, owner.namespace, name)
            except NotFound:
                pass
            else:
                return await self._apply_found(owner, action, found)
        if action.observed is not None:
            metadata = action.observed["metadata"]
            body["metadata"]["uid"] = metadata["uid"]
            if action.kind in {DEPLOYMENT, SERVICE, HTTP_ROUTE}:
                # A Deployment carries `replicas` as we saw them, and an autoscaler may have moved them
                # since; traffic must not be moved back from an old view of it.
                body["metadata"]["resourceVersion"] = metadata["resourceVersion"]
        try:
            # What we believe absent is made without force: over somebody's object that is a conflict.
            answer = await self._api.apply(kind, body, force=action.observed is not None)
            # A record is never replaced: its data are immutable byte by byte, in the order in which
            # an apply once stored them, and nothing else in it is worth it.  Nor is a Job: it runs as made.
            if action.kind not in {CONTROLLER_REVISION, JOB} and not is_satisfied(
                action.manifest, answer
            ):
                answer = await self._api.replace(kind, _make_replacement(action.manifest, answer))
        except Conflict:
            if action.observed is not None:
                raise
            return await self._explain_conflict(owner, action)
        except Invalid as error:
            return Trouble("ChildRefused", f"{action.kind} {name}: {error.message}", permanent=True)
        except Forbidden as error:
            if error.has_cause("NamespaceTerminating"):
                raise
            # A quota, a policy, or a right that we lack: none of them is for ever.
            return Trouble("ChildRefused", f"{action.kind} {name}: {error.message}")
        self._settle(action, answer)
        self._caches[action.kind].upsert(answer)
        logger.info(
            "applied",
            extra={
                "service": f"{owner.namespace}/{owner.name}",
                "child": f"{action.kind} {name}",
                "was": "there" if action.observed else "absent",
            },
        )
        return None

    async def _explain_conflict(self, owner: Owner, action: Apply) -> Trouble | None:
        """The object is there though our cache does not know it: ours and newer, or somebody's."""
        kind, name = KINDS[action.kind], action.manifest["metadata"]["name"]
        try:
            found = await self._api.get(kind, owner.namespace, name)
        except NotFound as error:
            raise Conflict(f"{action.kind} {name} came and went: reading again") from error
        return await self._apply_found(owner, action, found)

    async def _apply_found(self, owner: Owner, action: Apply, found: Obj) -> Trouble | None:
        """Somebody's, or ours without the labels by which it would be seen: those come back."""
        if not is_owned(found, owner):
            return describe_foreign(action.kind, found, owner)
        return await self._apply(owner, Apply(action.kind, action.manifest, found))

    async def _delete(self, owner: Owner, action: Delete) -> bool:
        """Whether there was something to delete: what is on its way out already is left to it."""
        metadata = action.observed["metadata"]
        if "deletionTimestamp" in metadata:
            return False
        try:
            await self._api.delete(
                KINDS[action.kind],
                metadata["namespace"],
                metadata["name"],
                uid=metadata["uid"],
                resource_version=metadata["resourceVersion"],
            )
        except NotFound:
            logger.debug("gone already", extra={"child": f"{action.kind} {metadata['name']}"})
        self._settled.pop(metadata["uid"], None)
        self._caches[action.kind].remove(action.observed)
        logger.info(
            "deleted",
            extra={
                "service": f"{owner.namespace}/{owner.name}",
                "child": f"{action.kind} {metadata['name']}",
                "why": action.why,
            },
        )
        return True

    def _settle(self, action: Apply, answer: Obj) -> None:
        """Somebody else's admission webhook may rewrite what we apply, each time anew.

        Then the child never satisfies us, and trying again on its every event would be a war.  So it is
        left alone for as long as neither our manifest nor what it became changes.
        """
        uid = answer["metadata"]["uid"]
        if is_satisfied(action.manifest, answer):
            self._settled.pop(uid, None)
            return
        self._settled[uid] = (_hash_manifest(action.manifest), _hash_content(answer))
        logger.warning(
            "the API server keeps something else than was applied",
            extra={"child": f"{action.kind} {action.manifest['metadata']['name']}"},
        )

    def _is_settled(self, action: Apply) -> bool:
        if action.observed is None:
            return False
        known = self._settled.get(action.observed["metadata"]["uid"])
        return known == (_hash_manifest(action.manifest), _hash_content(action.observed))


def _name_of(action: Action) -> str:
    found = action.manifest if isinstance(action, Apply) else action.observed
    return str(found["metadata"]["name"])


def is_repair(action: Action, *, is_steady: bool) -> bool:
    """Whether an applied child had drifted: the same manifest had been applied to it before.

    `is_steady` says that nothing is rolled out, so that nothing of ours changes replicas.
    """
    if not isinstance(action, Apply) or action.observed is None:
        return False
    if _hash_manifest(action.manifest) != _hash_manifest(action.observed):
        return False
    if action.kind == CONTROLLER_REVISION:
        return False  # its data can't be changed, and its marks are decisions
    if action.kind != DEPLOYMENT or is_steady:
        return True
    spec = {key: value for key, value in action.manifest["spec"].items() if key != "replicas"}
    return not is_satisfied({**action.manifest, "spec": spec}, action.observed)


def _hash_manifest(manifest: Obj) -> str:
    return str((manifest["metadata"].get("annotations") or {}).get(labels.APPLIED, ""))


def _hash_content(obj: Obj) -> str:
    content = {key: value for key, value in obj.items() if key not in {"metadata", "status"}}
    content["labels"] = obj["metadata"].get("labels", {})
    return names.short_hash(content)


def _make_replacement(manifest: Obj, observed: Obj) -> Obj:
    """A whole object, for what server-side apply can't do: take out what another manager put in."""
    body = deepcopy(manifest)
    body["metadata"]["resourceVersion"] = observed["metadata"]["resourceVersion"]
    body["metadata"]["uid"] = observed["metadata"]["uid"]
    return body
