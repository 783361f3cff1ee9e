// The list of comments: those of the room, in its order, and one's own as they fare. It owns the list, what it knows of
// each comment in it, and the ids of those that were taken away. It is bounded, and never shows what was retracted but
// to its author, with the reason.

import { commentItem, showAnswered } from "./comment.js";
import { element, page } from "./page.js";

const COMMENTS = 200; // list items at most
const RETRACTED = 1000;

const shown = new Map(); // comment id → {comment, item, state}
const retracted = new Set(); // a retraction may overtake its comment
let following = true;
let height = 0;
let reply = () => {};
let reachable = null; // the one Reply button in the tab order: from it the arrow keys go to the others

export function find(id) {
  return shown.get(id)?.comment;
}

/** `call` gets the comment that somebody wants to reply to. */
export function onReply(call) {
  reply = call;
}

export function allowReplies(on) {
  page.comments.classList.toggle("mute", !on);
}

/** Comments of the room. Gives back those that were not taken away before they came. */
export function add(comments) {
  const items = document.createDocumentFragment();
  const taken = comments.filter(({ id }) => !retracted.has(id));
  for (const comment of taken.slice(-COMMENTS)) {
    const known = shown.get(comment.id);
    if (known?.state === "shown" || known?.state === "rejected") continue;
    if (known) remove(known); // one's own, shown before the room had it: its place is here
    items.append(made(comment, "shown"));
  }
  append(items);
  return taken;
}

/** One's own comment: `local` (published, not come in a batch yet), `pending` or `rejected`, with a word about that. */
export function place(comment, state, note = "") {
  let known = shown.get(comment.id);
  if (state !== "rejected" && (retracted.has(comment.id) || known?.state === "shown")) return;
  if (!known) {
    append(made(comment, state));
    known = shown.get(comment.id);
  }
  known.state = known.item.dataset.state = state;
  known.item.querySelector(".verdict")?.remove();
  if (!note) return;
  const verdict = element("p", "verdict", note);
  verdict.dataset.status = state;
  known.item.append(verdict);
  follow();
}

export function retract(ids) {
  for (const id of ids) {
    const known = shown.get(id);
    if (known && known.state !== "rejected") {
      shown.delete(id);
      remove(known);
    }
    for (const quote of document.querySelectorAll(`[data-re="${CSS.escape(id)}"]`)) showAnswered(quote);
    retracted.delete(id);
    retracted.add(id);
  }
  for (const id of retracted) {
    if (retracted.size <= RETRACTED) break;
    retracted.delete(id);
  }
  reach();
}

export function addGap({ from, to }) {
  const count = Number(to.slice(1)) - Number(from.slice(1)) + 1;
  append(element("li", "gap", count === 1 ? "One update was skipped here" : `${count} updates were skipped here`));
}

function made(comment, state) {
  const answered = shown.get(comment.re);
  const item = commentItem(comment, answered?.state === "rejected" ? undefined : answered?.comment, (it) => reply(it));
  item.dataset.state = state;
  shown.set(comment.id, { comment, item, state });
  return item;
}

function append(items) {
  page.comments.append(items);
  while (page.comments.children.length > COMMENTS) {
    const item = page.comments.firstElementChild;
    shown.delete(item.dataset.id);
    remove({ item });
  }
  reach();
  follow();
}

function remove({ item }) {
  // Who is in there must not be thrown out of the list.
  if (item.contains(document.activeElement)) page.comments.focus({ preventScroll: true });
  item.remove();
}

function follow() {
  if (following) page.comments.scrollTop = page.comments.scrollHeight;
  else page.newest.hidden = false;
}

page.comments.addEventListener("scroll", () => {
  const list = page.comments;
  if (list.clientHeight !== height) return; // what stands around the list has moved, not its reader
  following = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  if (following) page.newest.hidden = true;
}, { passive: true });
new ResizeObserver(() => {
  height = page.comments.clientHeight;
  if (following) follow();
}).observe(page.comments);
page.newest.addEventListener("click", () => {
  page.comments.scrollTop = page.comments.scrollHeight;
  page.comments.focus();
});

// Two hundred buttons would stand between the list and the input for who goes by Tab. So one is in the tab order, the
// newest comment's or the one that was reached last, and the arrow keys go from one to the next.

const REPLIES = ':scope > [data-state="shown"] > .reply, :scope > [data-state="local"] > .reply';

function reach(button = null) {
  if (!button && reachable === document.activeElement && reachable?.isConnected) return;
  const next = button ?? [...page.comments.querySelectorAll(REPLIES)].at(-1) ?? null;
  if (reachable) reachable.tabIndex = -1;
  if (next) next.tabIndex = 0;
  reachable = next;
}

page.comments.addEventListener("focusin", ({ target }) => {
  if (target.matches(".reply")) reach(target);
});
page.comments.addEventListener("keydown", (event) => {
  if (!event.target.matches(".reply")) return;
  const all = [...page.comments.querySelectorAll(REPLIES)];
  const at = all.indexOf(event.target);
  const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  all[to]?.focus();
});
