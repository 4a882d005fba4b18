"""The books of a crash run, and whether they balance. Judges only: no daemon, no clock, no network.

A run writes down what every client was told, what the upstream answered 250 for, when the daemon
was killed, what operators deleted, and what lay in the queue at the end:

  messages   key, sender, recipients, digest, outcome, id (of the 250, or None), told (when)
             outcome: accepted (250), refused (4xx or 5xx), left (the client went before the final
             dot), unknown (the dot was sent and no answer came)
  arrivals   key, id, recipients, digest, connected (its session), began (MAIL), at (just before
             the upstream's 250)
  kills      when
  reports    id, original (the id it is about), recipients (that failed), connected, at
  deleted    id, at, sure (False: the command's answer was lost)
  queue      id, state, recipients: [address, state]; what is in the trash, too
  history    id, end, recipients: [address, state]

All times are of one monotonic clock, in seconds.
"""

import copy
from collections import Counter, defaultdict

# Between the upstream's 250 and the commit that says "delivered": far less than this on a machine
# that is not stuck. A second copy is a kill's doing only when the kill fell so soon after the
# first.
IN_FLIGHT_S = 2.0

TERMINAL = ("held", "trashed")


def never_wanted(message, recipient):
    """The upstream refuses this recipient, or the whole message, for good."""
    return message["sender"].startswith("dotno") or ".no" in recipient


def key_of(recipient):
    return recipient.split(".", 1)[0]


def was_in_flight(arrival, kill):
    """The kill fell into the session, and not long after the 250. What the kernel already had of a
    killed sender the upstream still reads, and answers: the kill may come before the 250, and the
    next daemon's copy may even be taken first; so copies are put in the order of their sessions."""
    return arrival["connected"] <= kill <= arrival["at"] + IN_FLIGHT_S


class Judge:
    def __init__(self, books):
        self.books = books
        self.violations = []
        self.tally = Counter()
        self.by_key = {m["key"]: m for m in books["messages"]}
        self.arrived = defaultdict(list)
        for arrival in sorted(books["arrivals"], key=lambda a: (a["connected"], a["at"])):
            for recipient in arrival["recipients"]:
                self.arrived[recipient].append(arrival)
        self.queued = {row["id"]: row for row in books["queue"]}
        self.past = {row["id"]: row for row in books["history"]}
        self.told = defaultdict(list)
        for report in sorted(books["reports"], key=lambda r: (r["connected"], r["at"])):
            for recipient in report["recipients"]:
                self.told[recipient].append(report)
        self.deleted = {}
        for row in books["deleted"]:
            known = self.deleted.get(row["id"])
            if known is None or row["sure"] > known["sure"]:
                self.deleted[row["id"]] = row

    def wrong(self, text, *about):
        self.violations.append(text % about)

    def run(self):
        for message in self.books["messages"]:
            self.tally[message["outcome"]] += 1
            for recipient in message["recipients"]:
                self.judge_recipient(message, recipient)
        for arrival in self.books["arrivals"]:
            self.judge_arrival(arrival)
        for recipient, arrivals in self.arrived.items():
            self.judge_copies(recipient, arrivals)
        for report in self.books["reports"]:
            self.judge_report(report)
        for recipient, reports in self.told.items():
            self.judge_copies("the report about " + recipient, reports)
        for identity in set(self.queued) & set(self.past):
            self.wrong("%s: in the queue and in the history", identity)
        for row in self.books["queue"]:
            self.judge_row(row)
        self.tally["kills"] = len(self.books["kills"])
        self.tally["arrivals"] = len(self.books["arrivals"])
        self.tally["reports"] = len(self.books["reports"])
        return self.tally, self.violations

    def judge_recipient(self, message, recipient):
        """What was answered 250 is delivered, or the queue says what became of it."""
        if message["outcome"] != "accepted":
            return
        self.tally["owed"] += 1
        row = self.queued.get(message["id"]) or self.past.get(message["id"])
        if row is None:
            self.wrong("%s: LOST: answered 250 as %s, neither in the queue nor in the history",
                       recipient, message["id"])
            return
        state = dict(row["recipients"]).get(recipient)
        if state is None:
            self.wrong("%s: %s is remembered without it", recipient, message["id"])
        elif recipient in self.arrived:
            self.tally["delivered"] += 1
        elif state == "delivered":
            self.wrong("%s: said to be delivered, the upstream has no copy", recipient)
        elif recipient in self.told:
            self.tally["reported"] += 1
        elif message["id"] in self.deleted:
            self.tally["deleted"] += 1
        elif message["id"] in self.queued and row["state"] == "held":
            self.tally["held"] += 1
        else:
            self.wrong("%s: %s as %s, neither delivered, reported, held nor deleted", recipient,
                       state, message["id"])

    def judge_arrival(self, arrival):
        message = self.by_key.get(arrival["key"])
        if message is None:
            self.wrong("%s: arrived, and nobody sent it", arrival["key"])
            return
        if message["outcome"] in ("refused", "left"):
            self.wrong("%s: arrived, but its client was told no (%s)", arrival["key"],
                       message["outcome"])
        if arrival["digest"] != message["digest"]:
            self.wrong("%s: arrived damaged", arrival["key"])
        if message["id"] is not None and arrival["id"] != message["id"]:
            self.wrong("%s: arrived as %s, answered as %s", arrival["key"], arrival["id"],
                       message["id"])
        gone = self.deleted.get(arrival["id"])
        if gone is not None and gone["sure"] and arrival["began"] > gone["at"] and not any(
                arrival["connected"] <= kill <= gone["at"] for kill in self.books["kills"]):
            self.wrong("%s: sent after it had been deleted", arrival["key"])
        for recipient in arrival["recipients"]:
            if recipient not in message["recipients"]:
                self.wrong("%s: a recipient nobody named", recipient)
            if never_wanted(message, recipient):
                self.wrong("%s: the upstream took what it refuses: the rig is wrong", recipient)

    def judge_report(self, report):
        """A report is about a message that was taken, and about recipients that were refused."""
        for recipient in report["recipients"]:
            message = self.by_key.get(key_of(recipient))
            if message is None or recipient not in message["recipients"]:
                self.wrong("%s: reported, and nobody sent it", recipient)
            elif message["outcome"] in ("refused", "left"):
                self.wrong("%s: reported, but its client was told no", recipient)
            elif message["id"] is not None and message["id"] != report["original"]:
                self.wrong("%s: reported as of %s, was %s", recipient, report["original"],
                           message["id"])
            elif not never_wanted(message, recipient):
                self.wrong("%s: reported as failed, though the upstream would take it", recipient)
            elif recipient in self.arrived:
                self.wrong("%s: delivered, and reported as failed", recipient)

    def judge_copies(self, recipient, arrivals):
        if len({a["id"] for a in arrivals}) > 1:
            self.wrong("%s: one message under %d ids", recipient, len({a["id"] for a in arrivals}))
        for first, second in zip(arrivals, arrivals[1:]):
            self.tally["duplicates"] += 1
            if any(was_in_flight(first, kill) and kill < second["connected"]
                   for kill in self.books["kills"]):
                self.tally["duplicates explained by a kill"] += 1
            else:
                self.wrong("%s: a second copy that no kill explains (%s)", recipient, second["id"])

    def judge_row(self, row):
        if row["state"] not in TERMINAL:
            self.wrong("%s: still %s after the drain", row["id"], row["state"])
        keys = {key_of(address) for address, _ in row["recipients"]}
        message = self.by_key.get(next(iter(keys))) if len(keys) == 1 else None
        if message is None:
            self.wrong("%s: in the queue, and nobody sent it", row["id"])
            return
        if message["outcome"] in ("refused", "left"):
            self.wrong("%s: in the queue, but its client was told no", row["id"])
        gone = self.deleted.get(row["id"])
        if gone is not None and gone["sure"] and row["state"] != "trashed":
            self.wrong("%s: in the queue after it had been deleted", row["id"])
        for address, state in row["recipients"]:
            if state == "failed" and not never_wanted(message, address):
                self.wrong("%s: failed, though the upstream would take it", address)


def balance(books):
    """The tally, and what is wrong as sentences; [] when the books balance."""
    return Judge(books).run()


# ---- negative controls: a checker that cannot fail shows nothing ----


def sole_delivery(books):
    """An arrival whose message was answered 250, and that is its recipients' only copy."""
    accepted = {m["key"] for m in books["messages"] if m["outcome"] == "accepted"}
    copies = Counter(a["key"] for a in books["arrivals"])
    gone = {row["id"] for row in books["deleted"]} | {row["id"] for row in books["queue"]}
    gone |= {report["original"] for report in books["reports"]}
    return next(index for index, a in enumerate(books["arrivals"])
                if a["key"] in accepted and copies[a["key"]] == 1 and a["id"] not in gone)


def fake_drop(books):
    del books["arrivals"][sole_delivery(books)]


def fake_damage(books):
    books["arrivals"][sole_delivery(books)]["digest"] = "0" * 64


def fake_ghost(books):
    key = books["arrivals"][sole_delivery(books)]["key"]
    next(m for m in books["messages"] if m["key"] == key)["outcome"] = "refused"


def fake_twice(books):
    again = copy.deepcopy(books["arrivals"][sole_delivery(books)])
    for index, kill in enumerate(books["kills"]):
        books["kills"][index] = min(kill, again["connected"] - 1)
    again["at"] += 1
    books["arrivals"].append(again)


def fake_undelete(books):
    arrival = books["arrivals"][sole_delivery(books)]
    books["deleted"].append({"id": arrival["id"], "at": arrival["connected"] - 0.001, "sure": True})
    books["kills"] = [k for k in books["kills"] if k > arrival["began"]]


def fake_told_twice(books):
    again = copy.deepcopy(books["reports"][0])
    again["id"] = "another"
    books["reports"].append(again)


def fake_untold(books):
    books["deleted"] = []
    accepted = {m["id"] for m in books["messages"] if m["outcome"] == "accepted"}
    report = next(r for r in books["reports"] if r["original"] in accepted)
    books["reports"] = [r for r in books["reports"] if r["original"] != report["original"]]


def fake_forgotten(books):
    """The history has lost a message that was delivered."""
    identity = books["arrivals"][sole_delivery(books)]["id"]
    books["history"] = [row for row in books["history"] if row["id"] != identity]


FAKES = {"told-twice": fake_told_twice, "untold": fake_untold, "forgotten": fake_forgotten,
         "drop": fake_drop, "damage": fake_damage, "ghost": fake_ghost, "twice": fake_twice,
         "undelete": fake_undelete}
