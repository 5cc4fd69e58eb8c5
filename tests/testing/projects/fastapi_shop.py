from typing import Any

import orders
from fastapi import FastAPI

import obskit

app = FastAPI()


@app.post("/orders")
def place(order: dict[str, Any]):
    return orders.place(order)


@app.get("/stock")
def stock():
    return orders.stock()


@app.post("/report")
def report():
    return orders.report()


app = obskit.install(app, instrumentation=False)
