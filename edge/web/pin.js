// The pinned comment, in a bar above the list. It owns the bar.

import { withMentions } from "./comment.js";
import { element, nameOf, page } from "./page.js";

let pinned = null;

/** null: none is. */
export function show(comment) {
  pinned = comment;
  page.pin.hidden = !comment;
  page["pin-comment"].replaceChildren();
  if (!comment) return;
  page["pin-comment"].append(element("bdi", "author", nameOf(comment)), " ", withMentions(comment.x, comment.at));
}

export function retract(ids) {
  if (pinned && ids.includes(pinned.id)) show(null);
}
