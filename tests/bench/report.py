"""Medians, the table of what was measured, and the targets beside what was reached."""

import statistics

COLUMNS = (("taken", "taken/s", "%.0f"), ("through", "through/s", "%.0f"),
           ("cpu_ms", "CPU ms each", "%.3f"), ("own_mib", "own MiB", "%.1f"),
           ("resident_mib", "resident MiB", "%.1f"), ("messages", "messages", "%d"))
RATIOS = ("taken", "through", "cpu_ms", "own_mib", "resident_mib")


def medians(runs):
    return {key: statistics.median(run[key] for run in runs if key in run)
            for key in sorted(set().union(*runs))}


def middles(results):
    """work -> product -> key -> median; products that never came through are left out."""
    return {word: {name: medians(runs) for name, runs in products.items() if runs}
            for word, products in results.items()}


# ---- the table ----


def cells(values, scale):
    return [form % values[key] if key in values and (scale is None or key in scale) else ""
            for key, _, form in COLUMNS]


def ratio_cells(ours, theirs):
    return ["%.2f" % (ours[key] / theirs[key])
            if key in RATIOS and ours.get(key) and theirs.get(key) else ""
            for key, _, _ in COLUMNS]


def row(word, title, texts, bold=False):
    texts = ["**%s**" % text if bold and text else text for text in texts]
    return "| %s | %s | %s |" % (word, "**%s**" % title if bold else title, " | ".join(texts))


def title_of(kinds, name):
    kind = kinds.get(name)
    return kind.title if kind and not name.startswith("tasuki") else name


def table(middle, kinds):
    lines = ["| | | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
             "|---|---|" + "---:|" * len(COLUMNS)]
    for word, products in middle.items():
        for name, values in products.items():
            lines.append(row(word, title_of(kinds, name), cells(values, None)))
        ours = [name for name in products if name.startswith("tasuki")]
        others = [name for name in products if name not in ours]
        pairs = [(a, b) for a in ours for b in others] or [(b, ours[0]) for b in ours[1:]]
        for a, b in pairs:
            lines.append(row(word, "%s : %s" % (a, title_of(kinds, b)),
                             ratio_cells(products[a], products[b]), bold=True))
    return "\n".join(lines)


# ---- the targets ----


class Measured:
    """What the targets ask for. None: it was not measured this time."""

    def __init__(self, middle, kinds):
        self.middle, self.kinds = middle, kinds

    def value(self, word, name, key):
        return self.middle.get(word, {}).get(name, {}).get(key)

    def ratio(self, word, key, ours, theirs):
        a, b = self.value(word, ours, key), self.value(word, theirs, key)
        return a / b if a and b else None

    def best(self, word, key, ours="tasuki"):
        """tasuki : the best peer of all; and in words, which that is, and the best that flushes."""
        names = [name for name in self.middle.get(word, {})
                 if name in self.kinds and name not in ("tasuki", "none")
                 and self.value(word, name, key)]
        mine = self.value(word, ours, key)
        if not names or not mine:
            return None, ""
        words = []
        for group in (names, [name for name in names if self.kinds[name].durable]):
            if group:
                top = max(group, key=lambda name: self.value(word, name, key))
                words.append((mine / self.value(word, top, key), self.kinds[top].title))
        said = words[0][1]
        if len(words) > 1 and words[1] != words[0]:
            said += "; %.1fx %s" % words[1]
        return words[0][0], said

    def queued(self):
        names = [name for name in self.middle.get("S6", {}) if name.endswith("queued")]
        return self.ratio("S6", "through", names[0], "tasuki, empty queue") if names else None


def share(value):
    return "%.1f %%" % (100 * value)


def times(value):
    return "%.1fx" % value


def inverse(value):
    return "1/%.1f" % (1 / value)


def targets(middle, kinds):
    """(work, target in words, value, what is said beside it, bound, at least?, how it is shown)"""
    m = Measured(middle, kinds)
    rows = []

    def add(word, text, value, bound, show, least=True, beside=""):
        rows.append((word, text, value, beside, bound, least, show))

    def against(word, key, name, bound, ours="tasuki"):
        kind = kinds.get(name)
        text = ">= %d %% of no MTA" % (100 * bound) if name == "none" else \
            ">= %gx %s" % (bound, kind.title if kind else name)
        add(word, text, m.ratio(word, key, ours, name), bound, share if name == "none" else times)

    def best(word, key, bound, ours="tasuki"):
        value, said = m.best(word, key, ours)
        text = "ahead of the best peer" if bound == 1 else ">= %gx the best peer" % bound
        mode = ours.partition(" ")[2]
        add(word + (" " + mode if mode else ""), text, value, bound, times, beside=said)

    against("S1", "through", "postfix", 8)
    against("S1", "through", "none", 0.40)
    against("S1k", "through", "postfix", 15)
    best("S1k", "through", 8)
    against("S1k", "through", "none", 0.45)
    against("S2", "taken", "postfix", 8)
    against("S2k", "taken", "postfix", 15)
    best("S2k", "taken", 10)
    best("S3", "through", 1)
    against("S3", "through", "none", 0.60)
    best("S4", "through", 3, "tasuki safe")
    best("S4", "through", 40, "tasuki stream")
    against("S5", "through", "none", 0.95)
    add("S6", ">= 90 % of an empty queue", m.queued(), 0.90, share)
    add("S1k", "CPU each <= 1/25 of Postfix's", m.ratio("S1k", "cpu_ms", "tasuki", "postfix"),
        1 / 25, inverse, least=False)
    add("S1k", "flushes each <= 0.15", m.value("S1k", "tasuki", "flushes"), 0.15,
        "{:.3f}".format, least=False)
    add("S1", "resident at most 32 MiB", m.value("S1", "tasuki", "peak_mib"), 32,
        "{:.1f} MiB".format, least=False)
    return rows


def state(value, bound, least):
    """Short: what is missing, in percent of the target."""
    if value is None:
        return "not measured"
    if value >= bound if least else value <= bound:
        return "reached"
    return "short by %.0f %%" % (100 * abs(value - bound) / bound)


def target_table(middle, kinds):
    lines = ["| | target | measured | state |", "|---|---|---:|---|"]
    for word, text, value, beside, bound, least, show in targets(middle, kinds):
        shown = show(value) if value is not None else ""
        lines.append("| %s | %s | %s%s | %s |" % (
            word, text, shown, " (%s)" % beside if beside else "", state(value, bound, least)))
    return "\n".join(lines)
