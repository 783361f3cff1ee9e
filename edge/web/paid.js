// The strip of comments that somebody has paid for, as long as each is to stay in sight. It owns the strip, and shows
// the newest few of those whose time is not over.

import { withMentions } from "./comment.js";
import { element, nameOf, page } from "./page.js";

const AT_ONCE = 3;
const KEPT = 50; // one that is behind others in the strip may last longer than they do
const LONGEST_MS = 2 ** 31 - 1; // a browser's timer takes no more

let kept = []; // {comment, item}, the oldest first
let timer = 0;

/** Of these, the ones that are paid for. */
export function show(comments) {
  for (const comment of comments) {
    if (!(comment.pin_until > Date.now()) || kept.some((it) => it.comment.id === comment.id)) continue;
    const item = element("li");
    item.dataset.paid = comment.id;
    item.tabIndex = 0; // by the arrow keys the rest of a long one is read
    item.append(element("bdi", "author", nameOf(comment)), " ", withMentions(comment.x, comment.at));
    kept.push({ comment, item });
  }
  kept = kept.slice(-KEPT);
  draw();
}

export function retract(ids) {
  kept = kept.filter(({ comment }) => !ids.includes(comment.id));
  draw();
}

function draw() {
  clearTimeout(timer);
  const now = Date.now();
  kept = kept.filter(({ comment }) => comment.pin_until > now);
  const items = kept.slice(-AT_ONCE).reverse().map(({ item }) => item);
  const list = page["paid-comments"];
  if (items.length !== list.children.length || items.some((item, i) => item !== list.children[i])) list.replaceChildren(...items);
  page.paid.hidden = !items.length;
  if (!kept.length) return;
  const next = Math.min(...kept.map(({ comment }) => comment.pin_until)) - now;
  timer = setTimeout(draw, Math.min(next, LONGEST_MS));
}
