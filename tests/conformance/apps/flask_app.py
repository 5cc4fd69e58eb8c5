"""The conformance app in Flask."""

from __future__ import annotations

import time

import shared
from flask import Blueprint, Flask, Response, jsonify, redirect, request, send_file
from flask.views import MethodView
from werkzeug.routing import BaseConverter


class YearConverter(BaseConverter):
    regex = "[0-9]{4}"


app = Flask(__name__)
app.url_map.converters["year"] = YearConverter


def request_id() -> str:
    return request.headers.get("X-Request-ID", "")


@app.get("/hello")
def hello() -> str:
    return "hello"


@app.get("/orders/<int:order_id>")
def show_order(order_id: int):
    found = shared.order(order_id)
    return found if found else ({"error": "no such order"}, 404)


@app.get("/boom")
def boom() -> str:
    raise ValueError("boom")


@app.get("/teapot")
def teapot() -> str:
    raise shared.Teapot


@app.errorhandler(shared.Teapot)
def handle_teapot(problem: shared.Teapot):
    return "short and stout", 418


@app.get("/redirect")
def redirects():
    return redirect("/hello", 302)


@app.get("/items/")
def items() -> str:
    return "items"


@app.get("/empty")
def empty():
    return "", 204


@app.get("/not-modified")
def not_modified():
    return "", 304, {"ETag": shared.ETAG}


@app.get("/stream")
def stream():
    return Response(shared.stream(), mimetype="text/plain")


@app.get("/stream-raises/<int:parts>")
def stream_raises(parts: int):
    return Response(shared.stream_that_raises(parts), mimetype="text/plain")


@app.get("/drip")
def drip():
    return Response(shared.drip(), mimetype="text/plain")


@app.get("/sse/<int:count>")
def sse(count: int):
    return Response(shared.events(count), mimetype="text/event-stream")


@app.get("/slow/<int:ms>")
def slow(ms: int):
    return shared.slow(ms, request_id())


@app.post("/upload")
def upload():
    return {"bytes": len(request.get_data())}


@app.post("/ignore-body")
def ignore_body():
    return "ignored", 202


@app.get("/file")
def file():
    return send_file(shared.FILE, mimetype="text/plain")


@app.get("/after-slow")
def after_slow():
    response = Response("done")
    response.call_on_close(lambda: time.sleep(shared.AFTER_S))
    return response


@app.get("/after-fails")
def after_fails():
    def fail() -> None:
        raise ValueError("after the response")

    response = Response("done")
    response.call_on_close(fail)
    return response


things = Blueprint("things", __name__, url_prefix="/things")
api = Blueprint("api", __name__, url_prefix="/api/v1")


@things.get("/<thing>")
def show_thing(thing: str):
    return {"thing": thing}


api.register_blueprint(things)
app.register_blueprint(api)


@app.get("/articles/<year:year>/")
def article(year: str) -> str:
    return year


class ClassView(MethodView):
    def get(self) -> str:
        return "by a class"


app.add_url_rule("/class-view", view_func=ClassView.as_view("class_view"))


@app.get("/greet/<name>")
def greet(name: str) -> str:
    return f"hello {name}"


@app.get("/grüße/<name>")
def gruss(name: str) -> str:
    return f"hallo {name}"


@app.get("/logs")
def logs() -> str:
    shared.note_everywhere(request_id())
    return "noted"


@app.get("/threadpool")
def threadpool() -> str:
    shared.note("pool", request_id())
    return "noted"


@app.get("/truncated")
def truncated():
    # As a list: from bytes Werkzeug would set a Content-Length of its own.
    return Response([shared.TRUNCATED], headers={"Content-Length": shared.TRUNCATED_DECLARES})


@app.post("/checkout")
@app.post("/refund")
def checkout():
    status, takes_ms = shared.checkout(request.get_data())
    shared.slow(takes_ms, request_id())
    return {"ok": True}, status


@app.get("/answers/<name>")
def answers(name: str):
    return jsonify(shared.ANSWERS[name])


@app.get("/stock/<name>")
def stock(name: str):
    return jsonify(shared.ANSWERS[name])


@app.get("/assume/<int:stock>")
def assume(stock: int):
    return shared.assume(stock)


@app.get("/unit-of-work/<int:steps>")
def work(steps: int):
    return shared.work(steps)


app = shared.install(app, shared.wrap_wsgi)
