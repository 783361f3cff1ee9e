// The `ws` package from npm as a client: node npm_ws.mjs URL PROTOCOL OPTIONS
// OPTIONS is the constructor's, as JSON. Each line on stdin is an order, each line on stdout is what happened.
import { createInterface } from "node:readline";
import WebSocket from "ws";

const [url, protocol, options] = process.argv.slice(2);
const tell = (event) => process.stdout.write(JSON.stringify(event) + "\n");
const socket = new WebSocket(url, protocol ? [protocol] : [], JSON.parse(options));

socket.on("open", () => tell({ open: socket.protocol, extensions: socket.extensions }));
socket.on("message", (data, binary) => tell(binary ? { base64: data.toString("base64") } : { text: data.toString() }));
socket.on("pong", (data) => tell({ pong: data.toString() }));
socket.on("unexpected-response", (_, response) => tell({ status: response.statusCode }));
socket.on("error", (error) => tell({ error: error.message }));
socket.on("close", (code, reason) => {
  tell({ close: code, reason: reason.toString() });
  process.exit(0);
});

createInterface({ input: process.stdin }).on("line", (line) => {
  const order = JSON.parse(line);
  if ("text" in order) socket.send(order.text);
  if ("base64" in order) socket.send(Buffer.from(order.base64, "base64"));
  if ("ping" in order) socket.ping(order.ping);
  if ("close" in order) socket.close(order.close, "bye");
});
