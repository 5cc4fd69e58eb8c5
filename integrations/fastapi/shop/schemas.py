"""What clients send."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, StrictInt, StrictStr


def printable(text: str) -> str:
    """No control characters and no lone surrogates, which PostgreSQL refuses to store."""
    if not text.isprintable():
        raise ValueError("only printable characters")
    return text


def stripped(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text.strip()


Text = Annotated[StrictStr, AfterValidator(printable)]


class NewOrder(BaseModel):
    item: Annotated[Text, AfterValidator(stripped), Field(max_length=200)]
    quantity: Annotated[StrictInt, Field(ge=1, le=1_000)]
    price_cents: Annotated[StrictInt, Field(ge=0, le=10_000_000)]


class Credentials(BaseModel):
    username: Text
    password: Text
