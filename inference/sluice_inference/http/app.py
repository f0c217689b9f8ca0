"""The ASGI application: the routes in their envelope."""

from __future__ import annotations

from starlette.routing import Router

from sluice_inference.http import routes_ops, routes_predict
from sluice_inference.http.context import Context
from sluice_inference.http.middleware import Envelope


def make_app(context: Context) -> Envelope:
    """The application for a server's parts."""
    routes = [*routes_ops.make_routes(context), *routes_predict.make_routes(context)]
    return Envelope(Router(routes, redirect_slashes=False), context)
