"""Every contract: its routes, what answers them without routing, and what is spoken there."""

from app.api import by_shape, hub, infinity, openai, tei_embed, tei_info, tei_predict, tei_tokens
from app.api.dialects import Dialect
from app.api.watch import Handler

_CONTRACTS = (by_shape, tei_embed, tei_predict, tei_tokens, hub, openai, infinity)

ROUTERS = [tei_info.router, *(contract.router for contract in _CONTRACTS)]
HANDLERS: dict[str, Handler] = {}
"""A POST to one of these paths is work, and goes straight to its handler."""
DIALECTS: dict[str, Dialect] = {}

for _contract in _CONTRACTS:
    HANDLERS.update(_contract.HANDLERS)
    DIALECTS.update(_contract.DIALECTS)
