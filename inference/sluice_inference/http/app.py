"""The ASGI application: all routes, in their envelope."""

from __future__ import annotations

from collections.abc import Sequence

from sluice_inference.guarding.guard import make_guard
from sluice_inference.http import (
    routes_docs,
    routes_openai,
    routes_ops,
    routes_predict,
    routes_similarity,
    routes_v1,
    routes_v2,
    routes_words,
)
from sluice_inference.http.catalogue import Catalogue
from sluice_inference.http.context import Context
from sluice_inference.http.middleware import Envelope
from sluice_inference.http.versions import VERSIONS, ApiVersion, add_versions


def make_app(context: Context, versions: Sequence[ApiVersion] = VERSIONS) -> Envelope:
    """The application for a server's parts. `versions`: those of our own API."""
    settings = context.settings
    guard = make_guard(
        settings.guard,
        context.metrics,
        service=settings.service,
        redis_url=settings.cache.redis_url,
        redis_timeout_s=settings.cache.redis_timeout_s,
    )
    return Envelope(make_catalogue(context, versions), context, guard)


def make_catalogue(context: Context, versions: Sequence[ApiVersion] = VERSIONS) -> Catalogue:
    """Every route of the server."""
    own = [
        *routes_predict.make_routes(context),
        *routes_similarity.make_routes(context),
        *routes_words.make_routes(context),
    ]
    entries = [
        *add_versions(own, versions),
        *routes_v2.make_routes(context),
        *routes_v1.make_routes(context),
        *routes_openai.make_routes(context),
        *routes_ops.make_routes(context),
    ]
    return Catalogue([*entries, *routes_docs.make_routes(context, entries)])
