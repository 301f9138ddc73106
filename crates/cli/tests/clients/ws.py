"""WebSockets of the `websockets` library through the proxy at argv[1]."""

import asyncio
import sys

from websockets.asyncio.client import connect

uri = f"ws://{sys.argv[1]}/chat"


async def one(number):
    async with connect(uri, max_size=None) as socket:
        for size in (0, 1, 125, 126, 65_535, 65_536, 300_000):
            await socket.send(f"{number}:" + "x" * size)
            assert await socket.recv() == f"{number}:" + "x" * size
            await socket.send(bytes([number % 256]) * size)
            assert await socket.recv() == bytes([number % 256]) * size
        waiter = await socket.ping()
        await waiter


async def main():
    await asyncio.gather(*(one(number) for number in range(30)))


asyncio.run(main())
print("done")
