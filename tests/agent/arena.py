"""An agent that has seen honest words of its coordinator, and a coordinator that may say anything next."""

import copy
import hashlib
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedllm.agent.agent import Agent
from fedllm.agent.job import Finished, Job, Workbench
from fedllm.errors import ExchangeError, RefusedError
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Answer, Head, PublicKeys, Roster, Update
from fedllm.secure.sealing import seal
from tests.agent.crashing import Wired
from tests.agent.hostility import Mutation, Words, sign_raw
from tests.agent.played import RUN, SITE, Coordinator, CountingTrainer


class FinishingTrainer(CountingTrainer):
    """Counts the jobs that came to an update."""

    finished = 0

    def start(self, job: Job) -> None:
        super().start(job)
        self.finished += isinstance(self._event, Finished)


class Script:
    """What an honest coordinator would say, and what it said before."""

    def __init__(self, coordinator: Coordinator, movies: PublicKeys) -> None:
        self.coordinator, self.layout = coordinator, coordinator.mailbox.layout
        sites = (coordinator.member.identity.public, movies)
        self.played = itertools.count(1)  # rounds of hostile words
        self.recipients = [coordinator.me.public.recipient, sites[0].recipient]
        head: dict[str, Any] = {"federation": "fed", "sender": COORDINATOR, "receiver": EVERYONE}
        head["roster_version"] = 5
        names = tuple(keys.name for keys in sites)
        plan = coordinator.plan(2, **head, epoch=3, sites=names, weights=dict.fromkeys(names, 1))
        messages = (
            Head(**head, run=RUN, round=2, counter=6, epoch=3, state="training"),
            plan,
            Roster(**head, coordinator=coordinator.me.public, sites=sites),
        )
        self._fields = [message.model_dump(mode="json", by_alias=True) for message in messages]
        before = self.words(1, counter=4, version=4)
        before.plan["deadline"] = time.time() - 60
        old = self.objects(before)
        self.older = {
            "an older head": old[self.layout.head],
            "an older roster": old[self.layout.roster],
            "an older plan": old[self.layout.plan(RUN, 1)],
        }
        before.head["counter"] = 5
        for said in (before.head, before.plan, before.roster):
            said["roster_version"] = 5
        self.greeting = self.objects(before)

    def words(self, number: int = 2, *, counter: int = 6, version: int = 5, epoch: int = 3) -> Words:
        """An honest round, to be changed."""
        head, plan, roster = copy.deepcopy(self._fields)
        for said in (head, plan, roster):
            said["roster_version"] = version
        head |= {"round": number, "counter": counter, "epoch": epoch}
        plan |= {"round": number, "epoch": epoch}
        return Words(head, plan, roster, self.coordinator.model.flat, list(self.recipients))

    def objects(self, words: Words, mutations: Sequence[Mutation] = ()) -> dict[str, bytes | None]:
        """Sign the words as the mutations leave them: what the store shows, by key; None is not there."""

        def change(message: str) -> None:
            for mutation in mutations:
                if mutation.message == message:
                    mutation.apply(words)

        def signed(message: str) -> bytes:
            text = json.dumps(getattr(words, message)).encode()
            for told, altered in words.texts:
                text = altered(text) if told == message else text
            return sign_raw(text, self.coordinator.me)

        number = words.plan["round"]
        change("model")
        sealed = seal(words.flat, words.recipients)
        key = self.layout.model(RUN, hashlib.sha256(sealed).hexdigest())
        words.plan["model"] = {
            "key": key,
            "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
            "sealed_bytes": len(sealed),
            "sha256": hashlib.sha256(words.flat).hexdigest(),
            "bytes": len(words.flat),
        }
        change("plan")
        plan = signed("plan")
        words.head["plan_sha256"] = hashlib.sha256(plan).hexdigest()
        change("head")
        change("roster")
        shown: dict[str, tuple[str, bytes | None]] = {
            "model": (key, sealed),
            "plan": (self.layout.plan(RUN, number), plan),
            "roster": (self.layout.roster, signed("roster")),
            "head": (self.layout.head, signed("head")),
        }
        for message, altered in words.in_store:
            key, data = shown[message]
            shown[message] = key, None if data is None else altered(data)
        return dict(shown.values())


class Arena:
    """One agent in a home of its own, after an honest greeting."""

    def __init__(self, script: Script, bench: Workbench) -> None:
        self.script, self.layout = script, script.layout
        self.folder = Path(tempfile.mkdtemp(prefix="fedllm-"))
        self.store = DirectoryStore(self.folder / "store")
        (self.folder / "home").mkdir(mode=0o700)
        known = script.coordinator.member
        policy = known.site.policy.model_copy(update={"min_cohort": 2})
        site = known.site.model_copy(update={"policy": policy, "poll_near": 1e-9, "poll_idle": 1e-9})
        member = Wired(site, self.folder / "home", known.identity, known.invitation, self.store)
        self.trainer = FinishingTrainer(bench)
        self.agent = Agent(member, self.trainer)
        self.show(script.greeting)
        self.agent.tick()

    def show(self, objects: dict[str, bytes | None]) -> None:
        """Put objects into the store."""
        for key, data in objects.items():
            if data is None:
                self.store.delete(key)
            else:
                self.store.put(key, data)

    def ticks(self, count: int = 3) -> None:
        """As `Agent.run` does, where nothing but these two is expected."""
        for _ in range(count):
            with suppress(RefusedError, ExchangeError):
                self.agent.tick()

    def reasons(self, number: int) -> list[str]:
        """Why a round was not done, as the site has it on record and told the coordinator."""
        mailbox, mine = self.agent.mailbox, self.agent.mailbox.me.public
        told = [event.reason for event in self.agent.memory.security.events()]
        to_coordinator = type(mailbox)(self.store, self.layout, self.script.coordinator.me)
        answer = to_coordinator.find(self.layout.answer(SITE, RUN, number), Answer, mine)
        update = to_coordinator.find(self.layout.update(SITE, RUN, number), Update, mine)
        told += [answer.message.reason] if answer and answer.message.decision == "decline" else []
        return told + ([update.message.failed] if update and update.message.failed else [])

    def payloads(self) -> list[str]:
        """Updates that left the site."""
        return [
            info.key for info in self.store.list(self.layout.site_prefix(SITE)) if "update.bin" in info.key
        ]

    def close(self) -> None:
        """Give everything back."""
        self.agent.close()
        shutil.rmtree(self.folder)
