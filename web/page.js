/*
 * The status page: asks the API every two seconds while it can be seen, and shows what came.
 *
 * Text from outside (addresses, subjects, an upstream's words) reaches the page only through
 * textContent, by way of outside(). What has not changed is not touched, so that nothing jumps and
 * a screen reader is told of news only.
 */
"use strict";

const REFRESH_MS = 2000;
const REFRESH_LONG_MS = 10000; /* of a long list */
const ANSWER_MS_MAX = 6000;
const PAGE_ROWS = 100;
const ROWS_MAX = 1000;
const ASKS_MAX = 8; /* to fill one page through a filter that matches little */
const HISTORY_ROWS = 20;
const HISTORY_MS = 10000; /* unless the counters say that something has left */
const DIALOGUE_LINES = 400;

const WORDS = { ok: "OK", attention: "Needs attention", trouble: "Trouble",
                lost: "Not reachable", wait: "One moment" };
const UPSTREAM_STATES = { well: ["ok", "✓ works"], untried: ["", "○ not tried yet"],
                          marked: ["trouble", "✕ not working"] };
const MESSAGE_STATES = { queued: ["", "○ waiting"], sending: ["ok", "➤ being sent"],
                         deferred: ["", "↻ put off"], "in-doubt": ["attention", "? in doubt"],
                         held: ["attention", "‖ held"], failed: ["trouble", "✕ failed"],
                         delivered: ["ok", "✓ delivered"], trashed: ["", "⌫ in the trash"] };
const ENDS = { delivered: ["ok", "✓ delivered"], reported: ["trouble", "✕ reported"],
               deleted: ["", "⌫ deleted"], discarded: ["attention", "✕ discarded"] };
const ENDS_IN_WORDS = { reported: "The sender was told.", deleted: "Somebody has deleted it.",
                        discarded: "The sender did not want to be told." };

const byId = (id) => document.getElementById(id);

/* ---- small things ---- */

/* Controls and characters that reorder text are shown as what they are. */
function outside(text) {
  return String(text ?? "").replace(
    /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function badge(node, states, state) {
  const [tone, word] = states[state] ?? ["", outside(state).slice(0, 20)];
  node.className = "badge";
  if (node.dataset.tone !== tone) node.dataset.tone = tone;
  say(node, word);
  return node;
}

function plural(count, word) {
  return count.toLocaleString("en") + " " + word + (count === 1 ? "" : "s");
}

function bytes(count) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let value = count || 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return (unit === 0 || value >= 10 ? Math.round(value) : value.toFixed(1)) + " " + units[unit];
}

function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  const [big, small, names] = s < 86400 ? [3600, 60, [" h", " min"]] : [86400, 3600, [" d", " h"]];
  const rest = Math.floor((s % big) / small);
  return Math.floor(s / big) + names[0] + (rest > 0 ? " " + rest + names[1] : "");
}

/* ---- asking ---- */

class Trouble extends Error {
  constructor(kind, message, hint) {
    super(message);
    this.kind = kind; /* web: tasuki-web is gone; daemon: it says so itself; request: our mistake */
    this.hint = hint;
  }
}

async function ask(path) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS_MAX) });
  } catch {
    throw new Trouble("web", "This page cannot reach tasuki-web any more.",
                      "systemctl status tasuki-web");
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    /* judged below */
  }
  if (response.ok && answer?.schema === 1) return answer;
  const error = answer?.error;
  throw new Trouble(response.status >= 500 ? "daemon" : "request",
                    outside(error?.message ?? "tasuki-web gave an answer that makes no sense."),
                    outside(error?.hint ?? ""));
}

/* ---- verdict and freshness ---- */

const seen = { status: null, at: 0, skew: 0, trouble: null };
const now = () => Date.now() + seen.skew;

function showVerdict(level, sentence, hint, detail = "") {
  const box = byId("verdict");
  if (box.dataset.level !== level) box.dataset.level = level;
  say(byId("verdict-word"), WORDS[level] ?? "");
  say(byId("verdict-sentence"), sentence);
  say(byId("verdict-detail"), detail);
  byId("verdict-detail").hidden = detail === "";
  say(byId("verdict-hint"), hint);
  byId("verdict-hint").hidden = hint === "";
  document.title = (level === "ok" ? "" : WORDS[level] + " · ") + "tasuki";
}

function showFresh() {
  const age = Date.now() - seen.at;
  const stale = seen.trouble !== null;
  document.body.classList.toggle("stale", stale && seen.at > 0);
  if (seen.at === 0) {
    say(byId("fresh"), stale ? "no data yet" : "…");
  } else {
    say(byId("fresh"), stale ? "last data " + span(age) + " old" : "live");
  }
}

function showLost(trouble) {
  const sentence = trouble.kind === "daemon" ? "The mail daemon does not answer." : trouble.message;
  const why = trouble.kind === "daemon" ? trouble.message : "";
  const then = seen.at > 0 ? "What is shown below is from before." : "";
  showVerdict("lost", sentence, trouble.hint, [why, then].filter(Boolean).join(" "));
}

/* ---- cards ---- */

function showQueue(q) {
  for (const name of ["queued", "sending", "held", "failed"]) {
    say(byId("q-" + name), (q[name] ?? 0).toLocaleString("en"));
  }
  byId("q-failed-box").classList.toggle("alarm", q.failed > 0);
  const share = q.max_bytes > 0 ? Math.min(100, 100 * q.used_bytes / q.max_bytes) : 0;
  byId("q-bar").style.width = share.toFixed(1) + "%";
  say(byId("q-bytes"), bytes(q.used_bytes) + " of " + bytes(q.max_bytes) + " disk used" +
      (q.accepting ? "" : ". Full: devices are told to try again later."));
}

/* What is kept besides: of no concern until somebody looks for it. */
function showKept(s) {
  const parts = [];
  if (s.queue.trashed > 0) parts.push(s.queue.trashed.toLocaleString("en") + " in the trash");
  if (s.history) parts.push((s.history.messages ?? 0).toLocaleString("en") + " in the history");
  if (s.reports > 0) parts.push(plural(s.reports, "report") + " sent");
  say(byId("q-kept"), parts.join(" · "));
}

function showBox(s) {
  const c = s.counters ?? {};
  say(byId("version"), outside(s.version));
  say(byId("b-listeners"), outside((s.listeners ?? []).join(", ")) || "nothing");
  say(byId("b-clients"), plural(s.clients ?? 0, "client"));
  say(byId("b-counters"), (c.accepted ?? 0).toLocaleString("en") + " taken in, " +
      (c.delivered ?? 0).toLocaleString("en") + " handed on" +
      (c.rejected ? ", " + c.rejected.toLocaleString("en") + " turned away" : ""));
  say(byId("b-up"), span(s.now_ms - s.started_ms));
  say(byId("b-io"), outside(s.io?.backend) + (s.io?.reason ? " (" + outside(s.io.reason) + ")" : ""));
}

const upstreamCards = new Map();

function upstreamCard(name) {
  const card = make("section", "card");
  const head = make("div", "up-head");
  const title = make("h2", "", "Upstream " + outside(name));
  const state = make("span", "badge");
  head.append(title, state);
  const host = make("p", "up-host quiet");
  const why = make("div", "why");
  const sentence = make("p");
  const quote = make("blockquote");
  const hint = make("p");
  const probe = make("p", "quiet");
  const standIn = make("p");
  why.append(sentence, standIn, quote, hint, probe);
  const facts = make("dl", "facts");
  const rows = {};
  for (const [key, label] of [["use", "Mail"], ["peer", "Connected to"], ["tls", "TLS"], ["mechanism", "Login"],
                              ["connections", "Connections"], ["pace", "Pace"],
                              ["pipeline", "Pipelining"], ["last", "Last delivery"],
                              ["counts", "Since the start"]]) {
    const row = make("div");
    rows[key] = make("dd");
    row.append(make("dt", "", label), rows[key]);
    facts.append(row);
  }
  card.append(head, host, why, facts);
  return { card, state, host, why, sentence, standIn, quote, hint, probe, rows };
}

function showProbe(card, u) {
  const wait = u.next_probe_ms - now();
  say(card.probe, (u.next_probe_ms > 0
    ? wait > 500 ? "Next try in " + span(wait) : "Trying again now" : "Waits for the next try") +
    (u.marked_ms > 0 ? "; it has been so for " + span(now() - u.marked_ms) + "." : "."));
}

/* How fast mail goes there, and what holds it back; "" where the daemon does not say. */
function pace(u) {
  const parts = [];
  const paused = (u.paused_until_ms ?? 0) - now();
  if (paused > 0) parts.push("paused for " + span(paused) + ", as the upstream asked");
  if (u.concurrency > 0) parts.push("up to " + u.concurrency + " at once");
  const used = (u.rates ?? []).filter((r) => typeof r.used === "number");
  if (used.length > 0) {
    parts.push("used " + used.map((r) => r.used.toLocaleString("en") + " of " + (r.most ?? 0).toLocaleString("en") +
                                  " " + outside(r.of) + "/" + outside(r.per)).join(" and "));
  }
  if (typeof u.rate_room === "number") {
    const next = (u.rate_next_ms ?? 0) - now();
    parts.push(u.rate_room > 0 ? plural(u.rate_room, "message") + " may go now"
      : "its rate is used up" + (next > 0 ? " for " + span(next) : ""));
  }
  const left = (u.forecast_ms ?? 0) - now();
  if (left > 0) parts.push("what waits has left in about " + span(left));
  return parts.join(", ");
}

function pipelining(p) {
  if (!p?.mode) return "";
  const words = { off: "off", safe: "on", stream: "on, several messages at once" };
  const lowered = p.lowered && p.lowered.until_ms > now()
    ? "; not more than " + outside(p.lowered.max) + " for " + span(p.lowered.until_ms - now()) + " (" +
      outside(p.lowered.reason) + ")" : "";
  return (words[p.mode] ?? outside(p.mode)) + (p.reason ? " (" + outside(p.reason) + ")" : "") + lowered;
}

function sayOrHide(dd, text) {
  dd.parentNode.hidden = text === "";
  say(dd, text);
}

function showUpstream(card, u) {
  badge(card.state, UPSTREAM_STATES, u.state);
  say(card.host, outside(u.host));
  card.why.hidden = u.state !== "marked";
  if (u.state === "marked") {
    const sentence = outside(u.sentence);
    say(card.sentence, sentence.charAt(0).toUpperCase() + sentence.slice(1) + ".");
    card.standIn.hidden = !u.stand_in;
    say(card.standIn, u.stand_in ? outside(u.stand_in) + " carries its mail meanwhile." : "");
    say(card.quote, (u.code ? u.code + " " : "") + outside(u.text));
    card.quote.hidden = !u.text;
    say(card.hint, outside(u.hint));
    card.hint.hidden = !u.hint;
    showProbe(card, u);
  }
  sayOrHide(card.rows.use, (u.use ?? "always") === "always" ? "" : outside(u.use));
  say(card.rows.peer, outside(u.peer) || "nobody yet");
  say(card.rows.tls, outside(u.tls) || "none");
  say(card.rows.mechanism, outside(u.mechanism) || "none");
  say(card.rows.connections, (u.connections ?? 0) + " of " + (u.connections_max ?? 0) + " open, " +
      (u.busy ?? 0) + " at work");
  sayOrHide(card.rows.pace, pace(u));
  sayOrHide(card.rows.pipeline, pipelining(u.pipeline));
  say(card.rows.last, u.last_delivery_ms > 0 ? span(now() - u.last_delivery_ms) + " ago" : "none yet");
  say(card.rows.counts, (u.delivered ?? 0).toLocaleString("en") + " delivered, " +
      (u.deferred ?? 0).toLocaleString("en") + " put off, " +
      (u.refused ?? 0).toLocaleString("en") + " refused");
}

function showUpstreams(list) {
  const names = new Set(list.map((u) => u.name));
  for (const [name, card] of upstreamCards) {
    if (!names.has(name)) {
      card.card.remove();
      upstreamCards.delete(name);
    }
  }
  for (const u of list) {
    if (!upstreamCards.has(u.name)) {
      upstreamCards.set(u.name, upstreamCard(u.name));
      byId("upstreams").append(upstreamCards.get(u.name).card);
    }
    const card = upstreamCards.get(u.name);
    card.stuck = u.state === "marked" && !u.stand_in;
    showUpstream(card, u);
  }
}

/* ---- the messages ---- */

const list = { filter: "", wanted: PAGE_ROWS, more: false, at: 0, count: 0 };

/* Rows on the page; `rows` holds what makeRow made, by id. */
const queueTable = { name: "queue", rows: new Map(), fill: fillRow };
const historyTable = { name: "history", rows: new Map(), fill: fillPastRow };

function recipients(m) {
  const to = (m.to ?? []).map(outside);
  const rest = (m.recipient_count ?? to.length) - Math.min(2, to.length);
  return to.slice(0, 2).join(", ") + (rest > 0 ? " and " + plural(rest, "other") : "");
}

function whatHappens(m) {
  if (m.state === "sending") return ["It is on its way.", ""];
  const sentence = m.reason && m.reason !== "none" ? outside(m.sentence) : "";
  const lead = sentence ? sentence.charAt(0).toUpperCase() + sentence.slice(1) + "." : "";
  if (m.state === "trashed") {
    return [lead || "Somebody has deleted it.",
            m.due_ms > now() ? "It goes for good in " + span(m.due_ms - now()) + "; until then: " +
            "tasukictl undelete " + outside(m.id) : "It goes for good now."];
  }
  if (m.state === "failed") return [lead || "It could not be delivered.", outside(m.hint)];
  if (m.state === "held") return [lead || "Somebody has put it on hold.",
                                  "tasukictl release " + outside(m.id)];
  const wait = m.due_ms - now();
  const next = wait > 500 ? "next try in " + span(wait)
    : upstreamCards.get(m.upstream)?.stuck ? "it waits until " + outside(m.upstream) + " works again"
    : "it is its turn";
  return [lead || "Waits for its first try.", m.attempts > 0
    ? plural(m.attempts, "try").replace("trys", "tries") + " so far, " + next : next];
}

function makeRow(table, id) {
  const tr = make("tr", "row");
  const cells = [0, 1, 2, 3, 4].map(() => make("td"));
  const state = make("span", "badge");
  const button = make("button", "open-row");
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  const about = make("span", "sub");
  const from = make("bdi");
  const to = make("bdi", "sub");
  const arrived = make("span");
  const what = make("span");
  const next = make("span", "sub");
  cells[0].append(state);
  cells[1].append(button, about);
  cells[2].append(from, to);
  cells[3].append(arrived);
  cells[4].append(what, next);
  tr.append(...cells);
  const row = { table, id, tr, state, button, about, from, to, arrived, what, next, detail: null, m: null };
  tr.addEventListener("click", (event) => {
    if (event.target === button || String(window.getSelection()) === "") toggle(row);
  });
  return row;
}

function fillRow(row, m) {
  row.m = m;
  badge(row.state, MESSAGE_STATES, m.state);
  say(row.button, outside(m.subject) || "(no subject)");
  say(row.about, bytes(m.bytes) + " · " + outside(m.device || m.client));
  say(row.from, outside(m.from) || "(no sender)");
  say(row.to, "to " + recipients(m));
  say(row.arrived, span(now() - m.arrived_ms) + " ago");
  const [what, next] = whatHappens(m);
  say(row.what, what);
  say(row.next, next);
}

/* Of what has left. */
function fillPastRow(row, m) {
  fillRow(row, m);
  badge(row.state, ENDS, m.end);
  say(row.arrived, span(now() - m.left_ms) + " ago");
  const took = m.left_ms - m.arrived_ms;
  const sentence = m.reason && m.reason !== "none" && m.end !== "delivered" ? outside(m.sentence) : "";
  const lead = sentence ? sentence.charAt(0).toUpperCase() + sentence.slice(1) + "." : "";
  say(row.what, m.end === "delivered" ? "Taken by " + (outside(m.upstream) || "the upstream") +
      (took >= 1000 ? ", " + span(took) + " after it arrived." : " at once.")
    : lead || ENDS_IN_WORDS[m.end] || "");
  say(row.next, m.end !== "delivered" && lead ? ENDS_IN_WORDS[m.end] ?? "" : "");
}

function fact(dl, label, value) {
  const row = make("div");
  const dd = make("dd");
  dd.append(make("bdi", "", value));
  row.append(make("dt", "", label), dd);
  dl.append(row);
}

function recipientItem(r) {
  const item = make("li");
  item.append(make("bdi", "", outside(r.to)), badge(make("span"), MESSAGE_STATES, r.state));
  if (r.reason && r.reason !== "none") {
    item.append(make("span", "sub", outside(r.sentence) + (r.hint ? ". " + outside(r.hint) : "")));
  }
  if (r.code || r.text) {
    item.append(make("blockquote", "",
                     [r.code || "", outside(r.enhanced), outside(r.text)].filter(Boolean).join(" ")));
  }
  return item;
}

/* ---- what happened to a message ---- */

/* "Put off by main", "2 recipients: delivered by main", "Held by uid 1000". */
function moveWords(move, m) {
  const by = move.upstream ? " by " + outside(move.upstream) : "";
  const attempts = { delivered: "delivered" + by, deferred: "put off" + by, failed: "refused" + by,
                     "in-doubt": "in doubt" + (move.upstream ? " at " + outside(move.upstream) : ""),
                     queued: "back in the queue" };
  const commands = { held: "held", queued: "to be tried now", deferred: "let go", "in-doubt": "let go",
                     trashed: "deleted", failed: "given up" };
  const uid = " by uid " + (move.uid ?? 0);
  const words = {
    attempt: attempts[move.to], "give-up": "given up", reported: "the sender was told",
    operator: commands[move.to] && (move.from === "trashed" ? "brought back" : commands[move.to]) + uid,
    damage: "it could not be read", age: "its time in the trash was over",
  }[move.cause] ?? outside(move.to);
  const count = m.recipient_count ?? 1;
  const who = move.count > 1 && move.count < count ? plural(move.count, "recipient")
    : move.count === 1 && count > 1 ? outside(m.recipients?.[move.first]?.to ?? "") : "";
  return who ? who + ": " + words : words.charAt(0).toUpperCase() + words.slice(1);
}

function moveItem(move, m) {
  const item = make("li");
  const when = make("time", "when", span(now() - move.when_ms) + " ago");
  if (Number.isFinite(move.when_ms)) when.title = new Date(move.when_ms).toLocaleString();
  const sentence = move.sentence && move.to !== "delivered" ? ": " + outside(move.sentence) : "";
  const text = make("div");
  text.append(make("bdi", "", moveWords(move, m) + sentence + "."));
  const answer = [move.code || "", outside(move.text)].filter(Boolean).join(" ");
  if (answer) text.append(make("blockquote", "", answer));
  const by = [outside(move.peer), outside(move.tls), move.connection ? "connection " +
    move.connection + ", " + (move.took_ms ?? 0).toLocaleString("en") + " ms" : ""];
  if (move.connection) text.append(make("span", "sub", by.filter(Boolean).join(" · ")));
  item.append(when, text);
  return item;
}

function movesOf(m) {
  const box = make("div");
  const moves = m.moves ?? [];
  if (moves.length === 0) return box;
  const items = moves.map((move) => moveItem(move, m));
  if (m.moves_left_out > 0) {
    const gap = make("li");
    gap.append(make("span", "when"), make("span", "sub", "… " + plural(m.moves_left_out, "more step") +
                                          " …"));
    items.splice(4, 0, gap); /* the daemon keeps the first four and the latest */
  }
  const ol = make("ol", "moves");
  ol.append(...items);
  box.append(make("h3", "", "What happened"), ol);
  return box;
}

async function showDialogue(button, id) {
  const box = make("div", "dialogue");
  try {
    const lines = (await ask("/api/v1/messages/" + encodeURIComponent(id) + "/transcript")).lines;
    const shown = lines.slice(-DIALOGUE_LINES).map(outside).join("\n");
    box.append(make(shown ? "pre" : "p", "", shown || "Nothing has been said to an upstream yet."));
  } catch (trouble) {
    const p = make("p", "quiet", trouble.message + ". ");
    if (trouble.hint) p.append(make("code", "", trouble.hint.replace("ID", () => outside(id))));
    box.append(p);
  }
  button.replaceWith(box);
}

function dialogueButton(id) {
  const button = make("button", "plain", "Show the dialogue with the upstream");
  button.type = "button";
  button.addEventListener("click", () => {
    button.disabled = true;
    showDialogue(button, id);
  });
  return button;
}

function detailOf(m) {
  const box = make("div");
  const dl = make("dl", "facts");
  fact(dl, "Subject", outside(m.subject) || "(none)");
  fact(dl, "From", outside(m.from) || "(no sender)");
  fact(dl, "Arrived", new Date(m.arrived_ms).toLocaleString());
  if (m.left_ms > 0) fact(dl, "Left", new Date(m.left_ms).toLocaleString());
  fact(dl, "Came from", outside(m.client) + (m.helo ? ", which calls itself " + outside(m.helo) : ""));
  if (m.device) fact(dl, "Device", outside(m.device));
  fact(dl, "Size", bytes(m.bytes));
  fact(dl, "Id", outside(m.id));
  const people = make("ul", "recipients");
  for (const r of m.recipients ?? []) people.append(recipientItem(r));
  const rest = (m.recipient_count ?? 0) - (m.recipients ?? []).length;
  if (rest > 0) people.append(make("li", "", "and " + plural(rest, "other")));
  const type = make("p", "quiet", "On the box: ");
  type.append(make("code", "", "tasukictl show " + outside(m.id)));
  box.append(dl, make("h3", "", "Recipients and the last answers"), people, movesOf(m),
             dialogueButton(m.id), type);
  return box;
}

async function fillDetail(row) {
  const cell = row.detail.firstChild;
  let content;
  try {
    content = detailOf(await ask("/api/v1/messages/" + encodeURIComponent(row.id)));
  } catch (trouble) {
    content = make("p", "", trouble.message + (trouble.hint ? " " + trouble.hint : ""));
  }
  cell.replaceChildren(content);
  cell.removeAttribute("aria-busy");
}

function toggle(row) {
  if (row.detail) {
    row.detail.remove();
    row.detail = null;
  } else {
    row.detail = make("tr", "detail");
    row.detail.id = "detail-" + row.table.name + "-" + row.id;
    const cell = make("td", "", "Asking the daemon…");
    cell.colSpan = 5;
    cell.setAttribute("aria-busy", "true");
    row.detail.append(cell);
    row.tr.after(row.detail);
    row.button.setAttribute("aria-controls", row.detail.id);
    fillDetail(row);
  }
  row.button.setAttribute("aria-expanded", String(row.detail !== null));
}

function place(table, messages) {
  const { rows } = table;
  const body = byId(table.name + "-rows");
  const ids = new Set(messages.map((m) => m.id));
  for (const [id, row] of rows) {
    if (!ids.has(id)) {
      row.tr.remove();
      row.detail?.remove();
      rows.delete(id);
    }
  }
  let before = body.firstChild;
  for (const m of messages) {
    const row = rows.get(m.id) ?? makeRow(table, m.id);
    rows.set(m.id, row);
    table.fill(row, m);
    if (row.tr !== before) {
      body.insertBefore(row.tr, before);
      if (row.detail) body.insertBefore(row.detail, before);
    }
    before = (row.detail ?? row.tr).nextSibling;
  }
}

function emptyLines() {
  const s = seen.status;
  if (list.filter !== "") return [["strong", "Nothing in the queue matches this filter."]];
  const accepted = s?.counters?.accepted ?? 0;
  if (accepted > 0 || s === null) {
    return [["strong", "Nothing waits."],
            ["p", "Mail that arrives is shown here until the upstream has taken it; then in the history."]];
  }
  return [["strong", "No mail has come by yet."],
          ["p", "Have a device or program send to this box (it takes mail on " +
                outside((s.listeners ?? []).join(", ")) + "). To see whether the way out works, type:"],
          ["code", "tasukictl test --to you@your-domain"]];
}

function showEmpty() {
  const box = byId("empty");
  const lines = emptyLines();
  const key = lines.map((line) => line[1]).join("|");
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...lines.map(([kind, text]) => {
    const p = make("p");
    p.append(kind === "p" ? text : make(kind, "", text));
    return p;
  }));
}

function showNote(text, wrong) {
  say(byId("filter-note"), text);
  byId("filter-note").classList.toggle("wrong", wrong);
}

/* Up to list.wanted messages; a filter that matches little takes several answers. */
async function askMessages() {
  const messages = [];
  let cursor = null;
  for (let asks = 0; asks < ASKS_MAX; asks++) {
    const query = new URLSearchParams({ limit: String(list.wanted - messages.length) });
    if (list.filter) query.set("q", list.filter);
    if (cursor) query.set("cursor", cursor);
    const answer = await ask("/api/v1/messages?" + query);
    messages.push(...answer.messages);
    cursor = answer.cursor;
    if (!cursor || messages.length >= list.wanted) break;
  }
  return { messages, more: cursor !== null && cursor !== undefined };
}

async function refreshMessages() {
  const filter = list.filter;
  let answer;
  try {
    answer = await askMessages();
  } catch (trouble) {
    if (trouble.kind !== "request") throw trouble;
    if (filter === list.filter) {
      showNote(trouble.message + (trouble.hint ? " (" + trouble.hint + ")" : ""), true);
    }
    return;
  }
  if (filter !== list.filter) return; /* it was changed meanwhile */
  list.at = Date.now();
  list.count = answer.messages.length;
  place(queueTable, answer.messages);
  byId("table").hidden = list.count === 0;
  byId("empty").hidden = list.count > 0;
  showEmpty();
  byId("more").hidden = !answer.more || list.wanted >= ROWS_MAX;
  showNote(answer.more
    ? "The oldest " + list.count.toLocaleString("en") + " are shown" +
      (list.wanted >= ROWS_MAX ? "; filter to see others." : ".")
    : list.count > 0 ? plural(list.count, "message") + (list.filter ? " that match" : "") +
      ", the oldest first." : "", false);
}

/* ---- the history ---- */

const past = { at: 0, key: "" };

/* Trouble here is told here: whether the daemon answers is judged by its status alone. */
async function refreshHistory(status) {
  const c = status.counters ?? {};
  const key = JSON.stringify([status.started_ms, status.history, c.delivered, c.refused, status.reports]);
  if (key === past.key && Date.now() - past.at < HISTORY_MS) return;
  let messages = [];
  let note = "";
  try {
    const answer = await ask("/api/v1/history?limit=" + HISTORY_ROWS);
    messages = answer.messages;
    note = messages.length === 0 ? "Nothing has left yet."
      : answer.cursor ? "The last " + messages.length + ", the newest first. All of them: tasukictl history"
      : plural(messages.length, "message") + ", the newest first.";
    past.key = key;
    past.at = Date.now();
    place(historyTable, messages);
    byId("history-table").hidden = messages.length === 0;
  } catch (trouble) {
    if (!(trouble instanceof Trouble)) throw trouble;
    note = trouble.message + (trouble.hint ? " (" + trouble.hint + ")" : "");
  }
  say(byId("history-note"), note);
}

/* ---- the round ---- */

let timer = 0;
let running = false;
let again = false;

async function refresh() {
  if (running) {
    again = true;
    return;
  }
  running = true;
  clearTimeout(timer);
  try {
    const status = await ask("/api/v1/status");
    seen.status = status;
    seen.skew = status.now_ms - Date.now();
    const v = status.verdict;
    showQueue(status.queue);
    showKept(status);
    showBox(status);
    showUpstreams(status.upstreams ?? []);
    const long = list.wanted > PAGE_ROWS && Date.now() - list.at < REFRESH_LONG_MS;
    if (!long || again) await refreshMessages();
    await refreshHistory(status);
    showVerdict(v.level, outside(v.sentence), outside(v.hint));
    seen.at = Date.now();
    seen.trouble = null;
  } catch (trouble) {
    seen.trouble = trouble instanceof Trouble ? trouble
      : new Trouble("daemon", "The daemon gave an answer that this page does not understand.",
                    "tasuki-web --version and tasukid --version should print the same");
    showLost(seen.trouble);
  }
  showFresh();
  running = false;
  if (again) {
    again = false;
    refresh();
  } else if (!document.hidden) {
    timer = setTimeout(refresh, REFRESH_MS);
  }
}

function refilter() {
  const filter = byId("filter").value.trim();
  if (filter === list.filter) return;
  list.filter = filter;
  list.wanted = PAGE_ROWS;
  list.at = 0;
  refresh();
}

let typing = 0;
byId("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refilter, 300);
});
byId("filter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  refilter();
});
byId("more").addEventListener("click", () => {
  list.wanted = Math.min(ROWS_MAX, list.wanted + PAGE_ROWS);
  list.at = 0;
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
setInterval(() => {
  if (!document.hidden) showFresh();
}, 1000);
refresh();
