// What is said about the room and the way to it: viewers, trouble, the mode, the sample, the connection. It owns those
// lines, and shows nothing of what is as in any other room.

import { duration, page } from "./page.js";

const TROUBLES = { broker: "Nothing new is coming in just now. What is missed will follow." };

export function showViewers(count) {
  if (count !== undefined) page["viewer-count"].textContent = count.toLocaleString();
}

export function showState({ state, trouble, notice }) {
  const closed = state && state !== "live" ? `This room is ${state}.` : "";
  const said = notice ?? TROUBLES[trouble] ?? trouble ?? closed;
  page.notice.textContent = typeof said === "string" ? said : JSON.stringify(said);
  page.notice.hidden = !said;
}

/** What holds for comments; `auto` where it has turned itself on, and will turn itself off. */
export function showMode(mode, auto = false) {
  const words = modeInWords(mode);
  if (words.length && auto) words.push("It is for as long as the rush lasts.");
  const said = words.join(" ");
  if (page.mode.textContent !== said) page.mode.textContent = said;
  page.mode.hidden = !said;
}

function modeInWords({ closed, subs_only, emote_only, slow_seconds, moderation }) {
  if (closed) return ["Comments are closed."];
  const words = [];
  if (slow_seconds) words.push(`Slow mode: ${duration(slow_seconds)} between comments.`);
  if (subs_only) words.push("Subscribers only.");
  if (emote_only) words.push("Emotes only.");
  if (moderation === "pre") words.push("Comments are looked at first.");
  return words;
}

export function showSample({ m = [], of }) {
  page.sample.hidden = of === undefined;
  if (of !== undefined) page.sample.textContent = `Showing ${m.length.toLocaleString()} of ${of.toLocaleString()} comments`;
}

export function showConnection(name, detail) {
  const said = { connecting: "connecting", live: "live", waiting: "reconnecting", refused: detail };
  page.connection.textContent = said[name];
  page.connection.dataset.state = name;
}
