// Reactions: totals by kind, each on the button that adds one. They only grow while the room's numbering stays, so
// whichever comes last is right.

import { element, page } from "./page.js";
import { address, speaks } from "./viewer.js";

const MARKS = { fire: "🔥", heart: "❤️", laugh: "😂", clap: "👏", wow: "😮", sad: "😢" };
const reactions = new Map(); // kind → {total, button, count}
let react = () => {};

/** `call` gets the kind that was chosen. */
export function onReact(call) {
  react = call;
}

export function show(totals = {}) {
  for (const [kind, total] of Object.entries(totals)) {
    const it = reactions.get(kind) ?? addKind(kind);
    it.total = Math.max(it.total, total);
    it.count.textContent = it.total.toLocaleString([], { notation: it.total < 10_000 ? "standard" : "compact" });
    it.button.ariaLabel = it.button.title = `${kind}: ${it.total.toLocaleString()}`;
  }
}

/** All kinds that are taken, with their totals. */
export async function ask() {
  for (const it of reactions.values()) it.total = 0;
  try {
    const answer = await fetch(address(""));
    if (!answer.ok) return;
    const { reactions: totals = {} } = await answer.json();
    show(totals);
    page.reactions.append(...Object.keys(totals).map((kind) => reactions.get(kind).button)); // in the server's order
  } catch {
    // They come with the batches.
  }
}

function addKind(kind) {
  const button = element("button");
  button.type = "button";
  button.dataset.kind = kind;
  button.disabled = !speaks;
  const count = element("span", "count");
  const mark = element("span", "mark", MARKS[kind] ?? kind);
  mark.ariaHidden = count.ariaHidden = "true";
  button.append(mark, count);
  button.addEventListener("click", () => react(kind));
  page.reactions.append(button);
  page.reactions.hidden = false;
  const it = { total: 0, button, count };
  reactions.set(kind, it);
  return it;
}
