// A batch server in another language: POST / with JSON lines in, JSON lines out. `node upstream.js PORT`
// The bodies "kill", "hang" and "garbage" misbehave, for the tests.
"use strict";
const http = require("node:http");

function handle(request, size) {
  const body = request.body ?? Buffer.from(request.body_base64, "base64");
  if (typeof body !== "string") {
    return { status: 200, headers: { "X-Bytes": body.length }, body_base64: body.toString("base64") };
  }
  if (body === "teapot") {
    const answer = { path: request.path, query: request.query, ask: request.headers["x-ask"] };
    return { status: 418, headers: { "Content-Type": "application/json", "Set-Cookie": ["a=1", "b=2"] }, body: JSON.stringify(answer) };
  }
  return { status: 200, headers: { "X-Size": size }, body };
}

function answer(text, response) {
  const requests = text.split("\n").filter((line) => line).map((line) => JSON.parse(line));
  for (const { body } of requests) {
    if (body === "kill") process.exit(1);
    while (body === "hang");
    if (body === "garbage") return response.end("not what was asked for");
    if (body === "error") return response.writeHead(500).end("out of memory");
  }
  const replies = requests.map((request) => JSON.stringify(handle(request, requests.length)));
  response.end(replies.join("\n"));
}

const server = http.createServer((request, response) => {
  if (request.url === "/ready") return response.writeHead(require("node:fs").existsSync(process.argv[3] ?? "/") ? 200 : 503).end();
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  // A few milliseconds of work, so that requests queue and batches form.
  request.on("end", () => setTimeout(answer, 10, Buffer.concat(chunks).toString(), response));
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("node listens"));
process.on("SIGTERM", () => process.exit(0));
