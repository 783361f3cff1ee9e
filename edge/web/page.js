// What the parts of the page share: its elements by id, new ones made of text, and words for times. It keeps nothing.
// All data reaches the page through `element` and the DOM's text: nothing here takes markup.

export const page = new Proxy({}, { get: (_, id) => document.getElementById(id) });

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A × that is called by what it does. */
export function cross(name, act) {
  const made = element("button", "cross", "×");
  made.type = "button";
  made.ariaLabel = name;
  made.addEventListener("click", act);
  return made;
}

export function nameOf({ u = {} }) {
  return u.name ?? u.id ?? "?";
}

/** The first words of a text. */
export function firstWords(text, most = 60) {
  const letters = [...text];
  if (letters.length <= most) return text;
  const kept = letters.slice(0, most).join("");
  return `${kept.replace(/\s+\S{0,20}$/u, "")} …`;
}

export function duration(seconds) {
  const all = Math.ceil(seconds);
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor((all % 3600) / 60), all % 60];
  const parts = hours ? [[hours, "h"], [minutes, "min"]] : [[minutes, "min"], [rest, "s"]];
  return parts.filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ") || "0 s";
}

/** Puts into a map that forgets its oldest entries past `most`. */
export function remember(map, key, value, most) {
  map.delete(key);
  map.set(key, value);
  for (const oldest of map.keys()) {
    if (map.size <= most) break;
    map.delete(oldest);
  }
}
