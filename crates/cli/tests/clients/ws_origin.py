"""A WebSocket origin that repeats every message, at the port argv[1]."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def repeat(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with serve(repeat, "127.0.0.1", int(sys.argv[1]), max_size=None):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
