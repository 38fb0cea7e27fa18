"""A small MCP server that asks its user for a form."""

from typing import Annotated

from mcp.server.mcpserver import Elicit, ElicitationResult, MCPServer, Resolve
from pydantic import BaseModel, Field

server = MCPServer("forms")


class Booking(BaseModel):
    name: str = Field(description="who comes")
    seats: int = Field(default=1)


def ask() -> Elicit[Booking]:
    return Elicit("How many seats?", Booking)


@server.tool()
async def book(booking: Annotated[ElicitationResult[Booking], Resolve(ask)]) -> str:
    """Book seats."""
    return f"{booking.action} {getattr(booking, 'data', None)}"


@server.tool()
async def cancel(seat: int) -> str:
    """Cancel a seat."""
    return f"seat {seat} is free"


if __name__ == "__main__":
    server.run()
