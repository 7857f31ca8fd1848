"""The groups of one sink's messages: which are occupied, and which messages wait for them. Pure.

By default, all messages about the same row form a group. At most one batch with messages of a group is in flight or in backoff; later
messages of the group wait here. A group is occupied while any of its messages is in flight, in backoff, or waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from userhooks.engine.change import Groups
from userhooks.engine.delivery.pending_message import PendingMessage


class Waiting(deque[PendingMessage | int]):
    """Messages waiting, in order, until no message of their `groups` is in flight or in backoff; row ids stand for messages only on disk.

    An update that changes a row's key belongs to the groups of both keys, which then share one queue. `held` is the number of groups that
    have a message in flight or in backoff.
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
    """The occupied groups of one sink, each mapped to the messages waiting for it, or to None if there are none."""

    def occupy(self, group: object, batch: set[object]) -> bool:
        """Occupy a message's group for a batch, and add the group to `batch`; return False if a message outside the batch occupies it."""
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
        """Return the queue for waiting messages of a group. If `group` stands for several groups, they share one queue from then on."""
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

        Each group is returned only once, even if several of the messages belong to it. Otherwise, two of its batches could be in flight.
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
        """Make the messages of `second` that share a group with `first` wait behind it, to keep the order; return the other messages.

        Both batches must occupy their groups. `first` and the returned messages continue to occupy theirs.
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
        """Return all queues, each only once even if several groups share it."""
        return {id(waiting): waiting for waiting in self.values() if waiting is not None}.values()

    def queues_of(self, messages: Iterable[PendingMessage]) -> Iterable[Waiting]:
        """Return the queues with messages waiting for the groups of these messages, each queue only once."""
        return {id(waiting): waiting for group in groups_of(messages) if (waiting := self.get(group))}.values()
