// undici through the proxy at argv[2]; the origin behind repeats what it is sent at /echo and sends chunks at /chunked.
import assert from "node:assert";
import { createRequire } from "node:module";
import { Readable } from "node:stream";

const { Client, Pool, request } = createRequire(process.argv[3] + "/")("undici");
const origin = "http://" + process.argv[2];
const block = Buffer.alloc(102400, Uint8Array.from({ length: 256 }, (_, at) => at));
const bytes = async (body) => Buffer.from(await body.arrayBuffer());

const pool = new Pool(origin, { connections: 10 });
await Promise.all(
  Array.from({ length: 300 }, async (_, number) => {
    const data = block.subarray(0, number * 100);
    const reply = await pool.request({ path: `/echo?n=${number}`, method: "POST", body: data });
    assert.equal(reply.statusCode, 200);
    assert.ok((await bytes(reply.body)).equals(data));
  }),
);
const pieces = Readable.from(Array.from({ length: 100 }, (_, at) => block.subarray(at * 1024, at * 1024 + 1024)));
const chunked = await pool.request({ path: "/echo", method: "PUT", body: pieces });
assert.ok((await bytes(chunked.body)).equals(block));
assert.ok((await bytes((await pool.request({ path: "/chunked", method: "GET" })).body)).equals(block));
await pool.close();

// Several requests in flight over one connection.
const client = new Client(origin, { pipelining: 10 });
const texts = await Promise.all(
  Array.from({ length: 200 }, async (_, number) => {
    const reply = await client.request({ path: "/echo", method: "PUT", body: `${number}` });
    return reply.body.text();
  }),
);
assert.deepEqual(texts, Array.from({ length: 200 }, (_, number) => `${number}`));
await client.close();

const expecting = await request(origin + "/echo", { method: "HEAD" });
assert.equal(expecting.statusCode, 200);
await expecting.body.dump();
console.log("done");
