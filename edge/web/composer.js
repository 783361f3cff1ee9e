// Saying something: the input, what it replies to, what is on its way, and what the server has to say about that. It
// owns the comments without an answer yet. A comment keeps its ref through every retry, which is what makes it one.

import * as comments from "./comments.js";
import * as own from "./own.js";
import { duration, element, firstWords, nameOf, page } from "./page.js";
import { me, myName, speaks } from "./viewer.js";

const UNSENT = 20;
const TRIES = 4;
const AGAIN_MS = 1500;
const PLACEHOLDER = page.text.placeholder;

const unsent = new Map(); // ref → {text, re, tries}
let send = () => false;
let answering = null; // the comment that the next one replies to
let wait = 0; // the timer of what is counted down

/** `call` sends an op; false where there is no connection. */
export function onSend(call) {
  send = call;
}

export function submitAll() {
  for (const ref of unsent.keys()) submit(ref);
}

function submit(ref) {
  const comment = unsent.get(ref);
  if (!comment) return;
  comment.tries += 1;
  if (!send({ op: "comment", ref, x: comment.text, re: comment.re?.id })) say("unknown", "waiting for the connection …");
}

/** A word by the input. With `seconds` it says how long to wait, and counts down. */
export function say(status, text, seconds = 0) {
  clearTimeout(wait);
  page.ack.dataset.status = status;
  page.ack.ariaLive = "polite";
  const until = performance.now() + seconds * 1000;
  const tell = () => {
    const left = (until - performance.now()) / 1000;
    page.ack.textContent = left > 0 ? `${text} (try again in ${duration(left)})` : text;
    if (left > 0) wait = setTimeout(tick, 1000);
  };
  const tick = () => {
    if (performance.now() < until) {
      page.ack.ariaLive = "off"; // nobody wants to be read a number a second
      return tell();
    }
    page.ack.ariaLive = "polite";
    page.ack.textContent = `${text} (you can try again now)`;
  };
  tell();
}

export function acknowledged(ack) {
  const { ref, id, status, message, error, retry_after: retry } = ack;
  const comment = unsent.get(ref);
  if (!comment) {
    if (ref === undefined && id !== undefined) verdict(ack);
    return;
  }
  if (status === "unknown" && comment.tries < TRIES) {
    say(status, "not sure that it arrived, sending it again …");
    setTimeout(submit, (retry ?? 0) * 1000 || AGAIN_MS, ref);
    return;
  }
  unsent.delete(ref);
  if (status === "published" || status === "pending") {
    say(status, status === "published" ? status : "pending: it waits for a moderator");
    const said = { id, u: { id: me, name: myName }, x: comment.text, ts: Date.now(), re: comment.re?.id };
    return own.answered(said, status);
  }
  say("rejected", `${status}: ${message ?? error ?? "no reason given"}`, retry);
  if (page.text.value) return;
  page.text.value = comment.text;
  if (comment.re && comments.find(comment.re.id)) replyTo(comment.re); // unless it is gone by now
}

/** One that is not known here is of another tab, or from before the page was loaded. */
function verdict(ack) {
  if (own.decided(ack)) return;
  if (ack.status === "published") say(ack.status, "a comment of yours was published");
  if (ack.status === "rejected") say(ack.status, `a comment of yours was not published: ${ack.message ?? ack.error}`);
}

// Replies

export function replyTo(comment) {
  answering = comment;
  page.replying.hidden = !comment;
  page["replying-to"].replaceChildren();
  if (!comment) return;
  const words = [element("bdi", "", nameOf(comment)), ": ", element("bdi", "", firstWords(comment.x))];
  page["replying-to"].append("Replying to ", ...words);
  page.text.focus();
}

export function retract(ids) {
  if (!answering || !ids.includes(answering.id)) return;
  replyTo(null);
  say("", "the comment that you were replying to is gone");
}

function dropReply() {
  replyTo(null);
  page.text.focus();
}

page["replying-stop"].addEventListener("click", dropReply);
page.text.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && answering && !event.isComposing) dropReply();
});

/** Where nobody may say anything, the input says so itself. */
export function close(closed) {
  for (const it of page.say.elements) it.disabled = closed;
  page.text.placeholder = closed ? "Comments are closed" : PLACEHOLDER;
}

page.say.hidden = !speaks;
page.say.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = page.text.value.trim();
  if (!text) return;
  if (unsent.size >= UNSENT) return say("rejected", "too many comments are waiting to be sent");
  const ref = crypto.getRandomValues(new Uint32Array(3)).join("-");
  unsent.set(ref, { text, re: answering, tries: 0 });
  page.text.value = "";
  replyTo(null);
  say("", "sending …");
  submit(ref);
});
