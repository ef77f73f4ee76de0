"""The operator door as tests ask it: each answer is held against the OpenAPI description."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema

from tests.doors import Scheduler


@dataclass
class OperatorDoor:
    """The operator door of a scheduler, and its own description."""

    scheduler: Scheduler
    http: httpx.AsyncClient
    description: dict[str, Any]

    async def ask(self, method: str, path: str, status: int = 200, **request: Any) -> Any:
        """The JSON answer, after it was held against what the description promises for this path and status."""
        answer = await self.http.request(method, path, **request)
        assert answer.status_code == status, answer.text
        assert ("retry-after" in answer.headers) == (status == 503)
        body = answer.json()
        names = [name for name, one in self.description["paths"].items() if method.lower() in one]
        template = next(name for name in names if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", name), path))
        responses = self.description["paths"][template][method.lower()]["responses"]
        schema = responses[str(status)]["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**schema, "components": self.description["components"]})
        return body

    async def get(self, path: str, status: int = 200, **query: Any) -> Any:
        return await self.ask("GET", path, status, params=query)
