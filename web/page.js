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

const WORDS = { ok: "OK", attention: "Needs attention", trouble: "Trouble",
                lost: "Not reachable", wait: "One moment" };
const UPSTREAM_STATES = { well: ["ok", "✓ works"], untried: ["", "○ not tried yet"],
                          marked: ["trouble", "✕ not working"] };
const MESSAGE_STATES = { queued: ["", "○ waiting"], sending: ["ok", "➤ being sent"],
                         held: ["attention", "‖ held"], failed: ["trouble", "✕ failed"],
                         delivered: ["ok", "✓ delivered"] };

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
  why.append(sentence, quote, hint, probe);
  const facts = make("dl", "facts");
  const rows = {};
  for (const [key, label] of [["peer", "Connected to"], ["tls", "TLS"], ["mechanism", "Login"],
                              ["connections", "Connections"], ["last", "Last delivery"],
                              ["counts", "Since the start"]]) {
    const row = make("div");
    rows[key] = make("dd");
    row.append(make("dt", "", label), rows[key]);
    facts.append(row);
  }
  card.append(head, host, why, facts);
  return { card, state, host, why, sentence, quote, hint, probe, rows };
}

function showProbe(card, u) {
  const wait = u.next_probe_ms - now();
  say(card.probe, (u.next_probe_ms > 0
    ? wait > 500 ? "Next try in " + span(wait) : "Trying again now" : "Waits for the next try") +
    (u.marked_ms > 0 ? "; it has been so for " + span(now() - u.marked_ms) + "." : "."));
}

function showUpstream(card, u) {
  badge(card.state, UPSTREAM_STATES, u.state);
  say(card.host, outside(u.host));
  card.why.hidden = u.state !== "marked";
  if (u.state === "marked") {
    const sentence = outside(u.sentence);
    say(card.sentence, sentence.charAt(0).toUpperCase() + sentence.slice(1) + ".");
    say(card.quote, (u.code ? u.code + " " : "") + outside(u.text));
    card.quote.hidden = !u.text;
    say(card.hint, outside(u.hint));
    card.hint.hidden = !u.hint;
    showProbe(card, u);
  }
  say(card.rows.peer, outside(u.peer) || "nobody yet");
  say(card.rows.tls, outside(u.tls) || "none");
  say(card.rows.mechanism, outside(u.mechanism) || "none");
  say(card.rows.connections, (u.connections ?? 0) + " of " + (u.connections_max ?? 0) + " open, " +
      (u.busy ?? 0) + " at work");
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
    showUpstream(upstreamCards.get(u.name), u);
  }
}

/* ---- the messages ---- */

const list = { filter: "", wanted: PAGE_ROWS, more: false, at: 0, count: 0 };
const rows = new Map(); /* id -> what makeRow made */

function recipients(m) {
  const to = (m.to ?? []).map(outside);
  const rest = (m.recipient_count ?? to.length) - Math.min(2, to.length);
  return to.slice(0, 2).join(", ") + (rest > 0 ? " and " + plural(rest, "other") : "");
}

function whatHappens(m) {
  if (m.state === "sending") return ["It is on its way.", ""];
  const sentence = m.reason && m.reason !== "none" ? outside(m.sentence) : "";
  const lead = sentence ? sentence.charAt(0).toUpperCase() + sentence.slice(1) + "." : "";
  if (m.state === "failed") return [lead || "It could not be delivered.", outside(m.hint)];
  if (m.state === "held") return [lead || "Somebody has put it on hold.",
                                  "tasukictl release " + outside(m.id)];
  const wait = m.due_ms - now();
  const next = wait > 500 ? "next try in " + span(wait) : "it is its turn";
  return [lead || "Waits for its first try.", m.attempts > 0
    ? plural(m.attempts, "try").replace("trys", "tries") + " so far, " + next : next];
}

function makeRow(id) {
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
  const row = { id, tr, state, button, about, from, to, arrived, what, next, detail: null, m: null };
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

function detailOf(m) {
  const box = make("div");
  const dl = make("dl", "facts");
  fact(dl, "Subject", outside(m.subject) || "(none)");
  fact(dl, "From", outside(m.from) || "(no sender)");
  fact(dl, "Arrived", new Date(m.arrived_ms).toLocaleString());
  fact(dl, "Came from", outside(m.client) + (m.helo ? ", which calls itself " + outside(m.helo) : ""));
  fact(dl, "Size", bytes(m.bytes));
  fact(dl, "Id", outside(m.id));
  const people = make("ul", "recipients");
  for (const r of m.recipients ?? []) people.append(recipientItem(r));
  const type = make("p", "quiet", "On the box: ");
  type.append(make("code", "", "tasukictl show " + outside(m.id)));
  box.append(dl, make("h3", "", "Recipients and the last answers"), people, type);
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
    row.detail.id = "detail-" + row.id;
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

function place(messages) {
  const body = byId("rows");
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
    const row = rows.get(m.id) ?? makeRow(m.id);
    rows.set(m.id, row);
    fillRow(row, m);
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
            ["p", "Mail that arrives is shown here until the upstream has taken it."]];
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
  place(answer.messages);
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
    showBox(status);
    showUpstreams(status.upstreams ?? []);
    const long = list.wanted > PAGE_ROWS && Date.now() - list.at < REFRESH_LONG_MS;
    if (!long || again) await refreshMessages();
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
