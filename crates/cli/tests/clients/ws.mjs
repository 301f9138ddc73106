// The `ws` library through the proxy at argv[2].
import assert from "node:assert";
import { once } from "node:events";
import { createRequire } from "node:module";

const WebSocket = createRequire(process.argv[3] + "/")("ws");

async function one(number) {
  const socket = new WebSocket(`ws://${process.argv[2]}/chat`);
  await once(socket, "open");
  for (const size of [0, 1, 125, 126, 65535, 65536, 300000]) {
    const message = Buffer.alloc(size, number);
    const answer = once(socket, "message");
    socket.send(message);
    assert.ok((await answer)[0].equals(message));
  }
  const pong = once(socket, "pong");
  socket.ping("x");
  await pong;
  const closed = once(socket, "close");
  socket.close(1000, "bye");
  assert.equal((await closed)[0], 1000);
}

await Promise.all(Array.from({ length: 30 }, (_, number) => one(number)));
console.log("done");
