import orders
from flask import Flask, request

import obskit

app = Flask("shop")


@app.post("/orders")
def place():
    return orders.place(request.get_json())


@app.get("/stock")
def stock():
    return orders.stock()


@app.post("/report")
def report():
    return orders.report()


app = obskit.install(app, instrumentation=False)
