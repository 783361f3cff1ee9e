// What moderators alone are told: a sudden crowd. Each alarm is a line until it is over, or was put away. It owns them.

import { quote } from "./comment.js";
import { find } from "./comments.js";
import { cross, element, page } from "./page.js";

const LINES = 3;
const lines = new Map(); // what the alarm is about → its line

export function alarmed({ kind, target, on }) {
  const about = JSON.stringify([kind, target]);
  lines.get(about)?.remove();
  lines.delete(about);
  if (!on) return;
  const line = element("p");
  line.append(inWords(kind, target), cross("Dismiss", () => {
    line.remove();
    lines.delete(about);
  }));
  lines.set(about, line);
  page.alarms.append(line);
  for (const [oldest, it] of lines) {
    if (lines.size <= LINES) break;
    it.remove();
    lines.delete(oldest);
  }
}

function inWords(kind, target) {
  if (kind === "newcomers") return element("span", "", "A sudden crowd of new accounts is commenting.");
  if (kind !== "target") return element("span", "", `${kind}: ${target}`);
  const made = element("span", "", "A sudden crowd ");
  made.append(find(target) ? quote(target, find(target)) : `speaks to ${target}.`);
  return made;
}
