// What becomes of one's own comments after their answer: a verdict may come later, in any order with the answer, the
// comment in a batch, and its retraction. It owns the last of one's comments, and verdicts that came before them.

import * as comments from "./comments.js";
import { remember } from "./page.js";

const KEPT = 50;
const mine = new Map(); // comment id → {comment, status}
const early = new Map(); // comment id → its verdict

/** The server has answered that this comment is `published` or `pending`. */
export function answered(comment, status) {
  remember(mine, comment.id, { comment, status }, KEPT);
  comments.place(comment, status === "pending" ? "pending" : "local", status === "pending" ? "waits for a moderator" : "");
  const verdict = early.get(comment.id);
  if (verdict) decided(verdict);
  early.delete(comment.id);
}

/** A verdict that came by itself. False where it is not known which comment it is about. */
export function decided({ id, status, message, error }) {
  const it = mine.get(id);
  if (!it) {
    remember(early, id, { id, status, message, error }, KEPT);
    return false;
  }
  if (status === "published") comments.place(it.comment, "local");
  if (status === "rejected") {
    const what = it.status === "pending" ? "was not published" : "was taken away";
    comments.place(it.comment, "rejected", `${what}: ${message ?? error ?? "no reason given"}`);
  }
  it.status = status;
  return true;
}
