"""requests and httpx through the proxy at argv[1]; the origin behind repeats what it is sent at /echo and sends chunks at /chunked."""

import asyncio
import sys

import httpx
import requests

base = "http://" + sys.argv[1]
block = bytes(range(256)) * 400


def with_requests():
    with requests.Session() as session:
        for number in range(100):
            reply = session.get(f"{base}/echo", params={"n": number})
            assert reply.status_code == 200, reply
        for size in (0, 1, 1000, 100_000, 5_000_000):
            data = (block * (size // len(block) + 1))[:size]
            assert session.post(f"{base}/echo", data=data).content == data, size
            # A generator is sent in chunks.
            pieces = (data[at : at + 7000] for at in range(0, size, 7000))
            assert session.put(f"{base}/echo", data=pieces).content == data, size
        assert session.post(f"{base}/echo", json={"a": [1, 2]}).json() == {"a": [1, 2]}
        assert session.post(f"{base}/echo", files={"f": ("n", block)}).content.count(block) == 1
        head = session.head(f"{base}/echo")
        assert head.status_code == 200 and head.content == b""
        with session.get(f"{base}/chunked", stream=True) as reply:
            assert reply.headers["Transfer-Encoding"] == "chunked"
            assert b"".join(reply.iter_content(1000)) == block
        assert session.get(f"{base}/close").content == block
        assert session.get(f"{base}/echo").status_code == 200


async def with_httpx():
    limits = httpx.Limits(max_connections=20)
    async with httpx.AsyncClient(base_url=base, limits=limits, timeout=30) as client:

        async def one(number):
            data = block[: number * 100]
            reply = await client.post(f"/echo?n={number}", content=data)
            assert reply.status_code == 200 and reply.content == data, number

        await asyncio.gather(*(one(number) for number in range(300)))

        async def pieces():
            for at in range(0, len(block), 1000):
                yield block[at : at + 1000]

        assert (await client.post("/echo", content=pieces())).content == block
        async with client.stream("GET", "/chunked") as reply:
            assert b"".join([piece async for piece in reply.aiter_bytes()]) == block


with_requests()
asyncio.run(with_httpx())
print("done")
