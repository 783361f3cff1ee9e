// The room page: shows what the stream says, sends what its reader writes. All data reaches the page as text nodes.

import { Stream } from "./stream.js";

const COMMENTS = 200; // list items at most
const EARLIER = 20;
const RETRACTED = 1000;
const UNSENT = 20;
const TRIES = 4;
const AGAIN_MS = 1500;

const page = new Proxy({}, { get: (_, id) => document.getElementById(id) });
const query = new URLSearchParams(location.search);
const room = query.get("room") || "demo";
const user = query.get("user");
const token = query.get("token");

function address(path) {
  const url = new URL(`/v1/rooms/${encodeURIComponent(room)}${path && `/${path}`}`, location.href);
  if (token) url.searchParams.set("token", token);
  if (user) url.searchParams.set("user", user);
  return url;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Comments

const shown = new Map(); // comment id → its list item
const retracted = new Set(); // a retraction may overtake its comment
let following = true;

function commentItem({ id, u = {}, x, ts }) {
  const item = element("li", u.id !== undefined && u.id === user ? "own" : "");
  item.dataset.id = id;
  const when = new Date(ts);
  const time = element("time", "", when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = when.toISOString();
  const author = element("bdi", "author", u.name ?? u.id ?? "?");
  const text = element("bdi", "text", x);
  item.append(time, author);
  if (u.role) item.append(element("span", "role", u.role));
  item.append(text);
  return item;
}

function addComments(comments) {
  const items = document.createDocumentFragment();
  for (const comment of comments.slice(-COMMENTS)) {
    if (shown.has(comment.id) || retracted.has(comment.id)) continue;
    const item = commentItem(comment);
    shown.set(comment.id, item);
    items.append(item);
  }
  append(items);
}

function append(items) {
  page.comments.append(items);
  while (page.comments.children.length > COMMENTS) {
    shown.delete(page.comments.firstElementChild.dataset.id);
    page.comments.firstElementChild.remove();
  }
  if (following) page.comments.scrollTop = page.comments.scrollHeight;
  else page.newest.hidden = false;
}

function retract(ids) {
  for (const id of ids) {
    shown.get(id)?.remove();
    shown.delete(id);
    retracted.delete(id);
    retracted.add(id);
  }
  for (const id of retracted) {
    if (retracted.size <= RETRACTED) break;
    retracted.delete(id);
  }
}

function addGap({ from, to }) {
  const count = Number(to.slice(1)) - Number(from.slice(1)) + 1;
  append(element("li", "gap", count === 1 ? "One update was skipped here" : `${count} updates were skipped here`));
}

page.comments.addEventListener("scroll", () => {
  const list = page.comments;
  following = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  if (following) page.newest.hidden = true;
}, { passive: true });
page.newest.addEventListener("click", () => {
  page.comments.scrollTop = page.comments.scrollHeight;
  page.comments.focus();
});

// Scores: {"home", "away"} are shown large, `text` below, and whatever else there is as it comes.

function words({ home, away, text, ...rest }) {
  const more = Object.entries(rest).map(([key, value]) => `${key} ${typeof value === "string" ? value : JSON.stringify(value)}`);
  return [text, ...more].filter((part) => part !== undefined && part !== "").join(" · ");
}

let latest = null;

function addScore({ e }) {
  if (latest) {
    const { home, away } = latest;
    const figures = home !== undefined && away !== undefined ? `${home} : ${away} ` : "";
    page.earlier.prepend(element("li", "", figures + words(latest)));
    while (page.earlier.children.length > EARLIER) page.earlier.lastElementChild.remove();
  }
  latest = e;
  const parts = [];
  if (e.home !== undefined && e.away !== undefined) parts.push(element("p", "figures", `${e.home} : ${e.away}`));
  const text = words(e);
  if (text) parts.push(element("p", "event", text));
  page.score.replaceChildren(...parts);
  page.score.classList.remove("fresh");
  void page.score.offsetWidth; // so that the animation starts again
  page.score.classList.add("fresh");
}

// Reactions: totals by kind. They only grow while the room's numbering stays, so whichever comes last is right.

const MARKS = { fire: "🔥", heart: "❤️", laugh: "😂", clap: "👏", wow: "😮", sad: "😢" };
const reactions = new Map(); // kind → {total, button, count}

function reactionButton(kind) {
  const button = element("button");
  button.type = "button";
  button.dataset.kind = kind;
  button.disabled = !(user || token);
  const count = element("span", "count");
  const mark = element("span", "mark", MARKS[kind] ?? kind);
  mark.ariaHidden = count.ariaHidden = "true";
  button.append(mark, count);
  button.addEventListener("click", () => {
    if (!stream.send({ op: "react", k: kind })) say("unknown", "not connected just now");
  });
  page.reactions.append(button);
  page.reactions.hidden = false;
  return { total: 0, button, count };
}

function showReactions(totals = {}) {
  for (const [kind, total] of Object.entries(totals)) {
    const it = reactions.get(kind) ?? reactionButton(kind);
    reactions.set(kind, it);
    it.total = Math.max(it.total, total);
    it.count.textContent = it.total.toLocaleString([], { notation: it.total < 10_000 ? "standard" : "compact" });
    it.button.ariaLabel = it.button.title = `${kind}: ${it.total.toLocaleString()}`;
  }
}

/** All kinds that are taken, with their totals. */
async function fetchReactions() {
  for (const it of reactions.values()) it.total = 0;
  try {
    const answer = await fetch(address(""));
    if (!answer.ok) return;
    const { reactions: totals = {} } = await answer.json();
    showReactions(totals);
    page.reactions.append(...Object.keys(totals).map((kind) => reactions.get(kind).button)); // in the server's order
  } catch {
    // They come with the batches.
  }
}

// What is said about the room

function showViewers(count) {
  if (count !== undefined) page["viewer-count"].textContent = count.toLocaleString();
}

const TROUBLES = { broker: "Nothing new is coming in just now. What is missed will follow." };

let mode = ""; // what moderators have set, in words

function showRoom(message) {
  if (message.auth !== undefined) return; // about this viewer's token, not the room
  if (message.mode !== undefined) mode = modeInWords(message.mode);
  const { state, trouble, notice } = message;
  const closed = state && state !== "live" ? `This room is ${state}.` : "";
  const said = (notice ?? TROUBLES[trouble] ?? trouble ?? closed) || mode;
  page.notice.textContent = typeof said === "string" ? said : JSON.stringify(said);
  page.notice.hidden = !said;
}

function modeInWords(set) {
  const words = [];
  if (set.closed) words.push("Comments are closed.");
  if (set.subs_only) words.push("Subscribers only.");
  if (set.emote_only) words.push("Emotes only.");
  if (set.slow_seconds) words.push(`Slow mode: one comment every ${set.slow_seconds} s.`);
  if (set.moderation === "pre") words.push("Comments are looked at before they are shown.");
  return words.join(" ");
}

function showSample({ m, of }) {
  page.sample.hidden = of === undefined;
  if (of !== undefined) page.sample.textContent = `Showing ${m.length.toLocaleString()} of ${of.toLocaleString()} comments`;
}

function showConnection(name, detail) {
  const said = { connecting: "connecting", live: "live", waiting: "reconnecting", refused: detail };
  page.connection.textContent = said[name];
  page.connection.dataset.state = name;
}

function received(message) {
  switch (message.t) {
    case "hello":
      showViewers(message.viewers);
      showRoom(message);
      if (!message.resumed) fetchReactions();
      break;
    case "batch":
      showViewers(message.n);
      showReactions(message.r);
      showSample(message);
      addComments(message.m ?? []);
      break;
    case "score": return addScore(message);
    case "del": return retract(message.ids);
    case "gap": return addGap(message);
    case "ack": return acknowledged(message);
    case "state":
      showViewers(message.viewers);
      showRoom(message);
      break;
    case "error":
      say("rejected", (message.message ?? message.error) + waitInWords(message.retry_after));
  }
}

// Sending. A comment keeps its ref through every retry, which is what makes it one comment.

const unsent = new Map(); // ref → {text, tries}

function say(status, text) {
  page.ack.dataset.status = status;
  page.ack.textContent = text;
}

function waitInWords(seconds) {
  return seconds ? ` (try again in ${Math.ceil(seconds)} s)` : "";
}

function submit(ref) {
  const comment = unsent.get(ref);
  if (!comment) return;
  comment.tries += 1;
  if (!stream.send({ op: "comment", ref, x: comment.text })) say("unknown", "waiting for the connection …");
}

function acknowledged({ ref, id, status, message, error, retry_after: retry }) {
  const comment = unsent.get(ref);
  if (!comment) return;
  if (status === "unknown" && comment.tries < TRIES) {
    say(status, "not sure that it arrived, sending it again …");
    setTimeout(submit, (retry ?? 0) * 1000 || AGAIN_MS, ref);
    return;
  }
  unsent.delete(ref);
  if (status === "published") {
    say(status, "published");
    addComments([{ id, u: { id: user, name: user ?? "you" }, x: comment.text, ts: Date.now() }]);
  } else if (status === "pending") {
    say(status, "pending: it waits for a moderator");
  } else {
    say("rejected", `${status}: ${message ?? error ?? "no reason given"}${waitInWords(retry)}`);
    if (!page.text.value) page.text.value = comment.text;
  }
}

page.say.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = page.text.value.trim();
  if (!text) return;
  if (unsent.size >= UNSENT) return say("rejected", "too many comments are waiting to be sent");
  const ref = crypto.getRandomValues(new Uint32Array(3)).join("-");
  unsent.set(ref, { text, tries: 0 });
  page.text.value = "";
  say("", "sending …");
  submit(ref);
});

page.join.addEventListener("submit", (event) => {
  event.preventDefault();
  query.set("user", page.name.value.trim());
  location.search = query;
});

page["publish-form"].addEventListener("submit", async (event) => {
  event.preventDefault();
  const score = { home: page.home.valueAsNumber, away: page.away.valueAsNumber };
  if (page.what.value) score.text = page.what.value;
  try {
    const answer = await fetch(address("score"), { method: "POST", body: JSON.stringify(score) });
    const body = await answer.json();
    page.published.dataset.status = answer.ok ? "published" : "rejected";
    page.published.textContent = answer.ok ? `published as ${body.id}` : body.message;
  } catch {
    page.published.dataset.status = "unknown";
    page.published.textContent = "the server can't be reached";
  }
});

page.room.textContent = room;
document.title = `${room}: live`;
page.say.hidden = !(user || token);
page.join.hidden = Boolean(user || token);
page.publish.hidden = !user;

const streamUrl = address("ws");
streamUrl.protocol = streamUrl.protocol === "https:" ? "wss:" : "ws:";
const stream = new Stream(streamUrl, {
  state: showConnection,
  message: received,
  open: () => [...unsent.keys()].forEach(submit),
});
stream.connect();
