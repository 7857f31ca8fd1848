"""The groups of one sink's messages: which are occupied, and which messages wait for them. Pure.

By default, the messages of a row form a group. At most one batch of a group is in flight or in backoff; its later messages wait here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from userhooks.engine.change import Groups
from userhooks.engine.delivery.pending_message import PendingMessage


class Waiting(deque[PendingMessage | int]):
    """Messages, in order, that wait until none of their `groups` is in flight or in backoff; row ids stand for messages only on disk.

    An update of a key joins the groups of both keys. `held` is the number of groups with a message in flight or in backoff.
    """

    __slots__ = ("groups", "held")

    def __init__(self, groups: Iterable[object], held: int) -> None:
        super().__init__()
        self.groups = list(groups)
        self.held = held

    def absorb(self, other: Waiting) -> None:
        """Append the messages and groups of another queue."""
        self.extend(other)
        self.groups += other.groups
        self.held += other.held

    def messages(self) -> Iterable[PendingMessage]:
        """Return the messages in memory."""
        return (message for message in self if isinstance(message, PendingMessage))

    def rows(self) -> Iterable[int]:
        """Return the row ids of the messages that are only on disk."""
        return (row for row in self if isinstance(row, int))


def groups_of(messages: Iterable[PendingMessage]) -> set[object]:
    """Return the groups that the messages belong to."""
    groups: set[object] = set()
    for message in messages:
        group = message.group
        if type(group) is Groups:
            groups.update(group)
        elif group is not None:
            groups.add(group)
    return groups


class OccupiedGroups(dict[object, Waiting | None]):
    """The occupied groups of one sink, each with the messages waiting for it, or None if there are none."""

    def occupy(self, group: object, batch: set[object]) -> bool:
        """Occupy a message's group for a batch and add it to `batch`; return False if an earlier message occupies it."""
        if type(group) is not Groups:
            if group not in self:
                self[group] = None
                batch.add(group)
                return True
            return group in batch
        if all(member not in self or member in batch for member in group):
            self.update(dict.fromkeys([member for member in group if member not in batch]))
            batch.update(group)
            return True
        batch.difference_update(group)  # later messages of these groups must wait behind this one
        return False

    def queue(self, group: object) -> Waiting:
        """Return the queue for messages of a group; several groups of a message share one queue from then on."""
        queue: Waiting | None = None
        for member in group if type(group) is Groups else (group,):
            waiting = self[member] if member in self else Waiting([member], 0)
            if waiting is None:
                waiting = Waiting([member], 1)
            if queue is None:
                queue = waiting
            elif waiting is not queue:
                queue.absorb(waiting)
            for shared in waiting.groups:
                self[shared] = queue
        assert queue is not None  # noqa: S101  # a message that has to wait belongs to a group
        return queue

    def free(self, messages: Iterable[PendingMessage]) -> set[object]:
        """Free the groups of a batch; return those with waiting messages, which stay occupied.

        Each group is freed once; freed twice, two of its batches could be in flight.
        """
        waited_for: set[object] = set()
        for message in messages:
            group = message.group
            for member in group if type(group) is Groups else (group,):
                waiting = self.pop(member, None)
                if waiting is not None:
                    self[member] = waiting
                    waited_for.add(member)
        return waited_for

    def put_behind(self, first: list[PendingMessage], second: list[PendingMessage]) -> list[PendingMessage]:
        """Queue the messages of `second` that share a group with `first` behind it, to keep the order; return the others.

        Both batches must occupy their groups; `first` and the returned messages continue to do so.
        """
        before = groups_of(first)
        occupied = before | groups_of(second)
        behind: list[PendingMessage] = []
        apart: list[PendingMessage] = []
        for message in second:
            groups = groups_of([message])
            if groups & before:
                before |= groups
                behind.append(message)
            else:
                apart.append(message)
        for message in reversed(behind):
            self.queue(message.group).appendleft(message)
        for group in occupied - groups_of(first) - groups_of(apart):
            waiting = self[group]
            assert waiting is not None  # noqa: S101  # a message of the group is in its queue
            waiting.held -= 1
        return apart

    def queues(self) -> Iterable[Waiting]:
        """Return each queue once, since several groups may share one."""
        return {id(waiting): waiting for waiting in self.values() if waiting is not None}.values()

    def queues_of(self, messages: Iterable[PendingMessage]) -> Iterable[Waiting]:
        """Return each queue once that has messages waiting for the groups of these messages."""
        return {id(waiting): waiting for group in groups_of(messages) if (waiting := self.get(group))}.values()
