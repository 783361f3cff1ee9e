// One comment as it is shown: who, when, what, whom it answers and mentions. It owns the names that it has seen, by
// which it knows whom an @name means.

import { element, firstWords, nameOf, remember } from "./page.js";
import { me } from "./viewer.js";

const NAMES = 2000;
const names = new Map(); // a name in small letters → the id of whose it is

// As the server looks for them: a letter or digit at the end, nothing of a word before the @.
const LETTER = "[\\p{L}\\p{N}_]\\p{M}*";
const MENTION = new RegExp(`(?<![\\p{L}\\p{N}\\p{M}_.@])@(${LETTER}(?:[.-]*${LETTER}){0,63})`, "gu");

/** `answered` is the comment that this one replies to, where that is known; `reply` is called by its button. */
export function commentItem(comment, answered, reply) {
  const { id, u = {}, x, ts, re, at = [], tier, pin_until: until } = comment;
  if (u.name !== undefined) remember(names, u.name.toLowerCase(), u.id, NAMES);
  const item = element("li");
  item.dataset.id = id;
  item.classList.toggle("own", me !== null && u.id === me);
  item.classList.toggle("to-me", me !== null && at.includes(me));
  item.classList.toggle("paid", until !== undefined);
  if (re !== undefined) item.append(quote(re, answered));
  item.append(timeOf(ts), " ", element("bdi", "author", nameOf(comment)), " ");
  if (u.role) item.append(element("span", "role", u.role), " ");
  if (tier !== undefined) item.append(element("span", "role", `tier ${tier}`), " ");
  if (item.classList.contains("to-me")) item.append(element("span", "unseen", "mentions you: "));
  item.append(withMentions(x, at), " ", replyButton(comment, reply));
  return item;
}

/** "answers Bob: the first words", of the comment with this id. */
export function quote(id, answered) {
  const made = element("span", "re");
  made.dataset.re = id;
  showAnswered(made, answered);
  return made;
}

/** Also called once more without a comment: when that has been taken away, so are its words here. */
export function showAnswered(made, answered) {
  made.replaceChildren("answers ");
  if (!answered) return made.append("a comment");
  made.append(element("bdi", "", nameOf(answered)), ": ", element("bdi", "", firstWords(answered.x)));
}

/** `text` with those names behind an @ set apart that stand for somebody in `at`. */
export function withMentions(text, at = []) {
  const made = element("bdi", "text");
  const found = at.length ? [...text.matchAll(MENTION)] : [];
  // As many users as names: each name is somebody's, whatever they are called.
  const all = new Set(found.map(([, name]) => name)).size === at.length;
  let from = 0;
  for (const { 0: whole, 1: name, index } of found) {
    const small = name.toLowerCase();
    if (!all && !at.some((id) => id.toLowerCase() === small || id === names.get(small))) continue;
    made.append(text.slice(from, index), element("b", "at", whole));
    from = index + whole.length;
  }
  made.append(text.slice(from));
  return made;
}

function timeOf(ts) {
  const when = new Date(ts);
  const made = element("time", "", when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  made.dateTime = when.toISOString();
  return made;
}

function replyButton(comment, reply) {
  const made = element("button", "reply", "Reply");
  made.type = "button";
  made.tabIndex = -1; // one of them all is in the tab order: see comments.js
  made.ariaLabel = `Reply to ${nameOf(comment)}`;
  made.addEventListener("click", () => reply(comment));
  return made;
}
