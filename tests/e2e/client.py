"""A client that sees where its connection ends."""

import asyncio

from watchdog.front.connection import Answer


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(line.split(" ")[1]), headers, body)
