"""A fake payment provider: a process of its own, whose database alone says who has paid.

  POST /authorize {"order", "amount", "card"}   sets the money aside       200 AUTHORIZED, 402 DECLINED
  POST /capture   {"order"}                     takes it                   200 CAPTURED
  POST /void      {"order"}                     gives it back              200 VOIDED
  GET  /payments                                everything, for whoever checks

All are idempotent by the order's id. A void of an order that it has never heard of is remembered: an authorization that is
still on its way is refused when it arrives. What cannot be done any more gets 409 and the state that there is.
"""

import argparse
import http.server
import json
import os
import sqlite3
import threading
import time

CARDS = {
    "4242424242424242": "good",
    "4000000000000002": "declined",
    # The money is set aside, but the first answer comes too late.
    "4000000000000119": "slow",
    # The first request is lost on its way.
    "4000000000000127": "lost",
    # The money is set aside, and no answer ever comes.
    "4000000000000135": "silent",
}
SCHEMA = """
create table if not exists payments (
  order_id text primary key, amount integer not null, card text not null, state text not null, asked integer not null
) strict;
"""
BODY_BYTES = 4096


class Ledger:
    """Who has paid."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.execute("pragma journal_mode = wal")
        self.database.execute("pragma synchronous = full")
        self.database.executescript(SCHEMA)
        self.lock = threading.Lock()

    def authorize(self, order, amount, card):
        """(state, whether the answer arrives in time)"""
        behaviour = CARDS.get(card, "declined")
        with self.lock:
            _, asked = self.find(order)
            if behaviour == "lost" and asked == 0:
                self.database.execute("insert or ignore into payments values (?, ?, ?, 'UNKNOWN', 0)", (order, amount, card))
                self.database.execute("update payments set asked = 1 where order_id = ?", (order,))
                return "UNKNOWN", False
            state = "DECLINED" if behaviour == "declined" else "AUTHORIZED"
            self.database.execute(
                "insert into payments values (?, ?, ?, ?, 1) on conflict (order_id) do update set asked = asked + 1,"
                " state = case state when 'UNKNOWN' then excluded.state else state end", (order, amount, card, state))
            in_time = behaviour != "silent" and not (behaviour == "slow" and asked == 0)
            return self.find(order)[0], in_time

    def capture(self, order):
        with self.lock:
            self.database.execute("update payments set state = 'CAPTURED' where order_id = ? and state = 'AUTHORIZED'", (order,))
            return self.find(order)[0]

    def void(self, order):
        with self.lock:
            self.database.execute(
                "insert into payments values (?, 0, '', 'VOIDED', 0) on conflict (order_id) do update set"
                " state = case when state in ('AUTHORIZED', 'UNKNOWN') then 'VOIDED' else state end", (order,))
            return self.find(order)[0]

    def find(self, order):
        """(state, how often an authorization was asked for)"""
        row = self.database.execute("select state, asked from payments where order_id = ?", (order,)).fetchone()
        return row or ("UNKNOWN", 0)

    def all(self):
        with self.lock:
            rows = self.database.execute("select order_id, amount, state from payments order by order_id").fetchall()
        return [dict(zip(("order", "amount", "state"), row)) for row in rows]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, self.server.ledger.all()) if self.path == "/payments" else self.answer(404, {})

    def do_POST(self):
        ledger = self.server.ledger
        try:
            body = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", 0)), BODY_BYTES)))
            order = str(body["order"])
            if self.path == "/authorize":
                state, in_time = ledger.authorize(order, int(body["amount"]), str(body["card"]))
                if not in_time:
                    time.sleep(self.server.silence)
                    self.close_connection = True
                    return
                self.answer({"AUTHORIZED": 200, "CAPTURED": 200, "DECLINED": 402}.get(state, 409), {"state": state})
            elif self.path == "/capture":
                state = ledger.capture(order)
                self.answer(200 if state == "CAPTURED" else 409, {"state": state})
            elif self.path == "/void":
                state = ledger.void(order)
                self.answer(200 if state in ("VOIDED", "DECLINED") else 409, {"state": state})
            else:
                self.answer(404, {})
        except (ValueError, KeyError, TypeError):
            self.close_connection = True
            self.answer(400, {})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, ledger, port=0, silence=5.0):
        super().__init__(("127.0.0.1", port), Handler)
        self.ledger, self.silence = ledger, silence

    def handle_error(self, *_):
        """Whoever asked has gone: that is what an answer that comes too late meets."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--database", default="payments.sqlite", metavar="FILE")
    parser.add_argument("--silence", type=float, default=5.0, help="seconds after which an answer that does not come in time is not sent")
    options = parser.parse_args()
    server = Server(Ledger(options.database), options.port, options.silence)
    print(f"payment provider: http://127.0.0.1:{server.server_port} pid {os.getpid()}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
