// Who looks at which room, as the page's own address says it. What a token says of its bearer is read for display
// alone: whether it is good is the server's to know.

export const query = new URLSearchParams(location.search);
export const room = query.get("room") || "demo";

const token = query.get("token");
const user = query.get("user");
const claims = token ? claimsOf(token) : {};

/** The id that others see of this viewer; null for who only reads. */
export const me = (token ? claims.sub : user) ?? null;
export const myName = claims.name ?? me ?? "you";
export const speaks = Boolean(token || user);
/** In dev mode everybody has this scope, and is bound by the room's mode all the same. */
export const moderates = Boolean(token) && scopesOf(claims).includes("moderate");
export const mayPublish = Boolean(user);

export function address(path) {
  const url = new URL(`/v1/rooms/${encodeURIComponent(room)}${path && `/${path}`}`, location.href);
  if (token) url.searchParams.set("token", token);
  if (user) url.searchParams.set("user", user);
  return url;
}

function claimsOf(jwt) {
  try {
    const raw = atob(jwt.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(raw, (char) => char.charCodeAt(0)))) ?? {};
  } catch {
    return {}; // the server will say what is wrong with it
  }
}

function scopesOf({ scope = [] }) {
  return typeof scope === "string" ? scope.split(" ") : scope;
}
