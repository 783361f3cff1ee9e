// The room page: gives each message of the stream to the part that shows it, and what its reader does to the stream.

import * as comments from "./comments.js";
import * as composer from "./composer.js";
import * as paid from "./paid.js";
import * as pin from "./pin.js";
import * as reactions from "./reactions.js";
import * as scores from "./scores.js";
import { alarmed } from "./alarms.js";
import { page } from "./page.js";
import { showConnection, showMode, showSample, showState, showViewers } from "./room.js";
import { Stream } from "./stream.js";
import { address, mayPublish, moderates, query, room, speaks } from "./viewer.js";

function received(message) {
  switch (message.t) {
    case "hello": return entered(message);
    case "state": return stated(message);
    case "batch": return batch(message);
    case "score": return scores.add(message);
    case "own": return message.m.forEach((comment) => comments.place(comment, "local"));
    case "del": return [comments, composer, pin, paid].forEach((part) => part.retract(message.ids));
    case "gap": return skipped(message);
    case "ack": return composer.acknowledged(message);
    case "alarm": return alarmed(message);
    case "error": return composer.say("rejected", message.message ?? message.error, message.retry_after);
  }
}

let news = {}; // what was told of the room behind the last `hello`: nothing, where nothing is set

function entered(message) {
  news = {};
  showViewers(message.viewers);
  showState(message);
  if (message.resumed) return; // what has changed meanwhile comes, or a gap
  catchUp();
  reactions.ask();
}

/** The mode and the pin, for who may have missed how they changed. */
function catchUp() {
  setMode(news.mode ?? {});
  pin.show(news.pin ?? null);
}

function skipped(gap) {
  if (gap.from[0] === "m") catchUp();
  comments.addGap(gap);
}

function stated(message) {
  if (message.auth !== undefined) return; // about this viewer's token, not the room
  if (message.id === undefined) news = { ...news, ...message };
  showViewers(message.viewers);
  if (message.mode !== undefined) setMode(message.mode, message.auto);
  if (message.pin !== undefined) pin.show(message.pin);
  if (["state", "trouble", "notice"].some((key) => key in message)) showState(message);
}

function setMode(mode, auto) {
  showMode(mode, auto);
  const closed = Boolean(mode.closed) && !moderates;
  composer.close(closed);
  comments.allowReplies(speaks && !closed);
}

function batch(message) {
  showViewers(message.n);
  reactions.show(message.r);
  showSample(message);
  paid.show(comments.add(message.m ?? []));
}

comments.onReply(composer.replyTo);
reactions.onReact((kind) => {
  if (!stream.send({ op: "react", k: kind })) composer.say("unknown", "not connected just now");
});
composer.onSend((op) => stream.send(op));

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
page.join.hidden = speaks;
page.publish.hidden = !mayPublish;

const streamUrl = address("ws");
streamUrl.protocol = streamUrl.protocol === "https:" ? "wss:" : "ws:";
const stream = new Stream(streamUrl, { state: showConnection, message: received, open: composer.submitAll });
stream.connect();
