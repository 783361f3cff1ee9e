// Scores: {"home", "away"} are shown large, `text` below, and whatever else there is as it comes. It owns the score and
// the events before it.

import { element, page } from "./page.js";

const EARLIER = 20;
let latest = null;

export function add({ e }) {
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

function words({ home, away, text, ...rest }) {
  const more = Object.entries(rest).map(([key, value]) => `${key} ${typeof value === "string" ? value : JSON.stringify(value)}`);
  return [text, ...more].filter((part) => part !== undefined && part !== "").join(" · ");
}
