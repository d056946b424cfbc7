"""The shop: a cart page, a checkout, an order's page, and the same as JSON. README.md says how to run it.

  GET  /                  the cart             POST /checkout             places its order
  GET  /orders/ID         where it stands      POST /orders/ID/pay        POST /orders/ID/cancel
  GET  /api/stock         {sku: {available, on_hand}}
  POST /api/orders        {"order_id", "lines": [{"sku", "quantity"}]}    201, or 200 for the same order again
  GET  /api/orders/ID     {"order_id", "state", "reason", "is_final", …}
  POST /api/orders/ID/payment {"card"}     POST /api/orders/ID/cancel     202, or 409 where it is too late or too early
"""

import argparse
import http.server
import json
import logging
import os
import pathlib
import re
import secrets
import ssl
import threading
import time
import urllib.parse

import pages
import pika
from messages import Consumer, Publisher
from orders import Orders
from till import Holdfast, Provider, Till

# SKU: name, price in cents.
CATALOGUE = {"ticket": ("Concert ticket", 4900), "shirt": ("Tour shirt", 2500), "poster": ("Signed poster", 1200)}
ORDER_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
# Stands for what a real provider's page would give the shop instead: a token. A shop never sees a card's number.
CARD = re.compile(r"[0-9]{12,19}")
# No script, nothing from elsewhere, in nobody's frame. The address of an order's page is all that it takes to pay or cancel it.
SAFETY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
          "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
UNITS_MAX = 10
BODY_BYTES = 16384
log = logging.getLogger("shop")


class Bad(Exception):
    """What was asked for cannot be: an HTTP status, and why."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Shop:
    """What the pages and the JSON API do."""

    def __init__(self, orders, holdfast):
        self.orders, self.holdfast = orders, holdfast
        self.levels, self.levels_at, self.lock = {}, 0.0, threading.Lock()

    def stock(self):
        """At most five questions a second, however many customers look."""
        with self.lock:
            if time.monotonic() > self.levels_at + 0.2:
                self.levels = self.holdfast.levels(CATALOGUE)
                self.levels_at = time.monotonic()
            return self.levels

    def place(self, order, lines):
        """(row, whether it is new)"""
        if not ORDER_ID.fullmatch(order):
            raise Bad(400, "order_id: 8 to 64 letters, digits and hyphens")
        for sku, quantity in lines:
            if sku not in CATALOGUE:
                raise Bad(400, f"nothing here is called {sku[:64]}")
            if not 1 <= quantity <= UNITS_MAX:
                raise Bad(400, f"quantity: 1 to {UNITS_MAX}")
        if not lines or len({sku for sku, _ in lines}) < len(lines):
            raise Bad(400, "an order has one line for each product, and at least one")
        row, is_new = self.orders.place(order, lines, sum(CATALOGUE[sku][1] * quantity for sku, quantity in lines))
        if json.loads(row["lines"]) != [list(line) for line in lines]:
            raise Bad(409, "there is another order with this id")
        return row, is_new

    def row(self, order):
        row = self.orders.get(order)
        if row is None:
            raise Bad(404, "there is no such order")
        return row

    def pay(self, order, card):
        self.row(order)
        if not CARD.fullmatch(card):
            raise Bad(400, "card: 12 to 19 digits")
        if not self.orders.pay(order, card):
            raise Bad(409, "this order cannot be paid now: its units must be held, and no payment be under way")

    def cancel(self, order):
        self.row(order)
        if not self.orders.give_up(order):
            raise Bad(409, "it is too late to cancel this order")


def as_json(row):
    return {"order_id": row["id"], "state": row["state"], "reason": row["reason"], "is_final": row["next"] == "",
            "amount": row["amount"], "expires_at": row["expires_at"],
            "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in json.loads(row["lines"])]}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, timeout = "HTTP/1.1", 60

    def do_GET(self):
        self.serve(self.get)

    def do_POST(self):
        self.serve(self.post)

    def serve(self, method):
        try:
            method(self.path.split("?")[0].strip("/").split("/"))
        except Bad as bad:
            self.refuse(bad)
        except OSError:
            raise  # the customer has gone
        except Exception:
            log.exception("%s %s", self.command, self.path)
            self.refuse(Bad(500, "something went wrong here; the same request again does no harm"))

    def refuse(self, bad):
        # What was not read of a body would be taken for the next request.
        self.close_connection = self.close_connection or bad.status in (411, 413, 500)
        if self.path.startswith("/api/"):
            self.send_json(bad.status, {"error": str(bad)})
        else:
            self.send(bad.status, "text/html", pages.trouble(str(bad)))

    def get(self, path):
        shop = self.server.shop
        match path:
            case [""]:
                self.send(200, "text/html", pages.cart(CATALOGUE, shop.stock(), secrets.token_hex(16), UNITS_MAX))
            case ["orders", order]:
                self.send(200, "text/html", pages.order(shop.row(order), CATALOGUE))
            case ["api", "stock"]:
                self.send_json(200, {sku: {"available": available, "on_hand": on_hand}
                                     for sku, (available, on_hand) in shop.stock().items()})
            case ["api", "orders", order]:
                self.send_json(200, as_json(shop.row(order)))
            case _:
                raise Bad(404, "there is no such page")

    def post(self, path):
        shop, body = self.server.shop, self.body()
        match path:
            case ["checkout"]:
                form = self.form(body)
                lines = [(sku, self.number(form[sku])) for sku in CATALOGUE if form.get(sku, "0") not in ("", "0")]
                row, _ = shop.place(form.get("order", ""), lines)
                self.redirect(f"/orders/{row['id']}")
            case ["orders", order, "pay"]:
                shop.pay(order, self.form(body).get("card", ""))
                self.redirect(f"/orders/{order}")
            case ["orders", order, "cancel"]:
                shop.cancel(order)
                self.redirect(f"/orders/{order}")
            case ["api", "orders"]:
                row, is_new = shop.place(*self.order(self.json(body)))
                self.send_json(201 if is_new else 200, as_json(row))
            case ["api", "orders", order, "payment"]:
                shop.pay(order, str(self.json(body).get("card", "")))
                self.send_json(202, as_json(shop.row(order)))
            case ["api", "orders", order, "cancel"]:
                shop.cancel(order)
                self.send_json(202, as_json(shop.row(order)))
            case _:
                raise Bad(404, "there is no such page")

    # What is asked for

    def body(self):
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or len(self.headers.get_all("Content-Length", [])) > 1:
            raise Bad(411, "one Content-Length, and no Transfer-Encoding")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > BODY_BYTES:
            raise Bad(413, f"at most {BODY_BYTES} bytes, with a Content-Length")
        return self.rfile.read(int(length))

    def form(self, body):
        return dict(urllib.parse.parse_qsl(body.decode(errors="replace")))

    def json(self, body):
        try:
            value = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise Bad(400, "the body is no JSON object")
        return value

    def order(self, value):
        try:
            return str(value["order_id"]), [(str(line["sku"]), self.number(line["quantity"])) for line in value["lines"]]
        except (KeyError, TypeError) as error:
            raise Bad(400, 'needed: {"order_id": …, "lines": [{"sku": …, "quantity": …}]}') from error

    def number(self, text):
        if not re.fullmatch("[0-9]{1,6}", str(text)):
            raise Bad(400, "quantity: a number")
        return int(text)

    # What is answered

    def send(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        # A cart from the browser's cache would have the id of an order that is placed already.
        self.send_header("Cache-Control", "no-store")
        for name, value in SAFETY.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status, value):
        self.send(status, "application/json", json.dumps(value))

    def redirect(self, path):
        self.send_response(303)
        self.send_header("Location", path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 512

    def __init__(self, shop, host="127.0.0.1", port=0):
        super().__init__((host, port), Handler)
        self.shop = shop

    def handle_error(self, *_):
        """A customer who has gone is no error; others are logged where they happen."""


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    environment = os.environ.get
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--database", default="shop.sqlite", metavar="FILE")
    parser.add_argument("--broker", default=environment("HOLDFAST_BROKER", "amqp://guest@127.0.0.1:5672"), metavar="URL")
    parser.add_argument("--broker-password-file", metavar="FILE", help="instead of HOLDFAST_BROKER_PASSWORD, or of guest's")
    parser.add_argument("--broker-ca", metavar="FILE", help="whom an amqps:// broker's certificate is of; PEM")
    parser.add_argument("--target", default=environment("HOLDFAST_TARGET", "127.0.0.1:7420"), metavar="HOST:PORT")
    parser.add_argument("--tls-ca", default=environment("HOLDFAST_TLS_CA"), metavar="FILE", help="TLS to Holdfast; PEM. HOLDFAST_TOKEN has its token")
    parser.add_argument("--provider", default="http://127.0.0.1:8081", metavar="URL", help="the payment provider")
    parser.add_argument("--provider-timeout", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument("--patience", type=float, default=30.0, metavar="SECONDS",
                        help="how long the provider is asked again what it did; then the payment is void")
    parser.add_argument("--hold", type=float, default=120.0, metavar="SECONDS", help="how long units are held for a payment")
    parser.add_argument("--ask-after", type=float, default=60.0, metavar="SECONDS",
                        help="how long behind a hold's end the shop waits for the event, before it asks the server")
    return parser.parse_args(arguments)


def broker(options):
    """As the other programs read it. Better than in the address the password stands in a file: others see a command line."""
    url = urllib.parse.urlsplit(options.broker)
    password = os.environ.get("HOLDFAST_BROKER_PASSWORD") or urllib.parse.unquote(url.password or "guest")
    if options.broker_password_file:
        password = pathlib.Path(options.broker_password_file).read_text().strip()
    tls = pika.SSLOptions(ssl.create_default_context(cafile=options.broker_ca), url.hostname) if url.scheme == "amqps" else None
    return pika.ConnectionParameters(
        url.hostname, url.port or (5671 if tls else 5672), urllib.parse.unquote(url.path[1:]) or "/",
        pika.PlainCredentials(urllib.parse.unquote(url.username or "guest"), password), ssl_options=tls, heartbeat=20,
        # A broker that takes no messages now (its disk is full, say) is waited for, and then left.
        blocked_connection_timeout=60)


def end_with_thread(arguments):
    """Half a shop is worse than none: whoever watches over this process starts it again, and it goes on where it was."""
    logging.critical("%s has failed", arguments.thread.name, exc_info=arguments.exc_value)
    os._exit(70)


def main():
    options = parse()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    orders = Orders(options.database, options.ask_after)
    authority = pathlib.Path(options.tls_ca).read_bytes() if options.tls_ca else None
    holdfast = Holdfast(options.target, token=os.environ.get("HOLDFAST_TOKEN", ""), authority=authority)
    parameters = broker(options)
    consumer = Consumer(orders, parameters)
    publisher = Publisher(orders, parameters, options.hold, consumer.ready)
    till = Till(orders, holdfast, Provider(options.provider, options.provider_timeout), options.patience)
    threading.excepthook = end_with_thread
    for work in (consumer, publisher, till):
        threading.Thread(target=work.run, daemon=True).start()
    server = Server(Shop(orders, holdfast), port=options.port)
    print(f"shop: http://127.0.0.1:{server.server_port} pid {os.getpid()}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
