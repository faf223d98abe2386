"""Whether the scheduler still has what it was told, when the connection was cut or nothing was heard for a while
(SPEC section 8.2).

The scheduler is asked for its clients. A record of this client from before the cut means that it has our tasks, but for
what was on its way: then it is asked which ones. Without one it has given us up, or it is another scheduler at the same
address: our tasks are lost. A record that may be from before or not is asked for again, a few times: with a quick
answer it is known better. Who does not answer such questions, though it echoes what was sent after them, can't be
trusted to have our tasks after a cut.

A cut is often noticed later than what came of it: the tasks from before are given up already, and new ones are with a
scheduler whose record of us is new. So no record is asked for that would be older than the first echo since then.
"""

from __future__ import annotations

from enum import Enum

from protocol.codec import encode_query
from protocol.identifiers import ClientId, TaskId
from protocol.messages import ClientInfo, InformationAnswer, InformationQuery, InformationRequest, TaskFilter, TaskList

_FIRST_QUERY = 1 << 63  # users' queries count from 1
_QUESTIONS = 5


class Verdict(Enum):
    KNOWN = "it has us, and nothing was cut"
    KNOWN_CUT = "it has us, but for what was on its way"
    UNKNOWN = "it does not have us"
    OPEN = "nothing is known yet"


class Reunion:
    """One question at a time. Times in seconds, on the clock of the caller."""

    def __init__(self, identity: ClientId) -> None:
        self._identity = identity
        self._query = _FIRST_QUERY
        self.asked_at = 0.0
        """When the last question was sent."""
        self._open = False  # it has no answer yet
        self._since = 0.0
        self._cut = False
        self._echoes = 0  # so many of those that come may answer what was sent before the question
        self._questions = 0
        self._met: float | None = None  # the scheduler had a record of us then; None: it was last found to have none
        self._asked: dict[int, tuple[TaskId, ...]] = {}  # which of these it has, by query

    def ask(self, now: float, since: float, cut: bool, beats: int) -> InformationRequest:
        """Something may have been lost ``since`` then. A heartbeat is to be sent after this question; ``beats`` were
        sent before it and have no echo."""
        if self._met is not None:
            since = max(since, self._met)
        if self._open:
            self._since = min(since, self._since)
        else:
            unsettled = bool(self._asked)  # what it has was asked, and the answers will not count any more
            self._since = min(since, self._since) if unsettled else since
            self._cut, self._questions = unsettled, 0
        self._cut |= cut
        self._echoes = beats
        return self._ask(now)

    def _ask(self, now: float) -> InformationRequest:
        self.asked_at, self._open = now, True
        self._asked.clear()
        self._query += 1
        return InformationRequest(encode_query(InformationQuery(self._query, "clients")))

    def ask_for(self, tasks: tuple[TaskId, ...]) -> InformationRequest:
        """It has us: which of these tasks does it have?"""
        self._query += 1
        self._asked[self._query] = tasks
        return InformationRequest(encode_query(InformationQuery(self._query, "tasks", TaskFilter(tasks, True))))

    def living(self, answer: InformationAnswer) -> tuple[tuple[TaskId, ...], set[TaskId]] | None:
        """The tasks that an answer is about, and those of them that the scheduler has. Whatever else it has answered
        has come before. None: it answers something else, or is out of date."""
        tasks = self._asked.pop(answer.query_id, None)
        if tasks is None or not isinstance(answer.value, TaskList):
            return None
        return tasks, {TaskId(info.task_id) for info in answer.value.tasks}

    def answers(self, answer: InformationAnswer) -> bool:
        """Whether this is the answer to one of these questions, if to an old one."""
        return answer.query_id >= _FIRST_QUERY

    def is_current(self, answer: InformationAnswer) -> bool:
        """Whether it answers the question that is open."""
        return self._open and answer.query_id == self._query

    def answered(self, answer: InformationAnswer, now: float) -> Verdict | InformationRequest:
        """What is known now, or the next question."""
        if not self.is_current(answer):
            return Verdict.OPEN
        clients = answer.value if isinstance(answer.value, tuple) else ()
        mine = [c for c in clients if isinstance(c, ClientInfo) and c.client_id == self._identity]
        if self._met is None:  # it has had nothing of ours but what is new: all of it is asked about
            return self._end(Verdict.KNOWN_CUT if self._cut else Verdict.KNOWN)
        if mine:
            connected = mine[0].connected_milliseconds / 1000
            earliest, latest = self.asked_at - connected - 0.001, now - connected
            if earliest <= self._since:
                self._questions += 1
                if latest >= self._since and self._questions < _QUESTIONS:
                    return self._ask(now)
                return self._end(Verdict.KNOWN_CUT if self._cut else Verdict.KNOWN)
        self._met = now if mine else None
        return self._end(Verdict.UNKNOWN)

    def echoed(self, now: float) -> Verdict:
        """A heartbeat was echoed."""
        if self._met is None:
            self._meet(now)
        if not self._open:
            return Verdict.OPEN
        self._echoes -= 1
        if self._echoes >= 0:
            return Verdict.OPEN
        if self._cut:
            self._meet(now)
        return self._end(Verdict.UNKNOWN if self._cut else Verdict.KNOWN)

    def _meet(self, now: float) -> None:
        self._met, self._since = now, max(now, self._since)

    def _end(self, verdict: Verdict) -> Verdict:
        self._open = False
        return verdict

    def forget(self) -> None:
        """What was told before is given up: there is no question any more."""
        self._open, self._met = False, None
        self._asked.clear()
