"""The shop's pages: plain HTML that works without scripts."""

import html
import json
import time

from provider import CARDS

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5c6675; --paper: #f6f5f2; --card: #fff; --line: #e2e0da;
  --mark: #1f6f54; --warn: #a63d2f; --on: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e9e7e2; --soft: #a2a9b5; --paper: #15181d; --card: #1e2229;
  --line: #333943; --mark: #5fc49c; --warn: #f08c7b; --on: #10221b } }
* { box-sizing: border-box } body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.5 system-ui, sans-serif } main { max-width: 36rem; margin: 0 auto; padding: 2.5rem 1rem }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem } p { margin: .3rem 0 1rem } .soft { color: var(--soft) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.25rem; margin: 1.25rem 0 }
.row { display: flex; gap: 1rem; align-items: center; padding: .7rem 0 } .row + .row { border-top: 1px solid var(--line) }
.row > :first-child { flex: 1 } .card > :first-child { margin-top: 0 } .price { white-space: nowrap }
button, select, input { font: inherit; color: inherit; padding: .5rem .8rem; border-radius: 8px; border: 1px solid var(--line);
  background: var(--paper) } input { width: 4.5rem } select { max-width: 100% }
button { cursor: pointer } button.main { background: var(--mark); border-color: var(--mark); color: var(--on); font-weight: 600 }
button:focus-visible, select:focus-visible, input:focus-visible, a:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px }
form.line { display: flex; gap: .6rem; flex-wrap: wrap; align-items: center; margin: .8rem 0 0 }
ol.way { list-style: none; display: flex; gap: .5rem; padding: 0; margin: 1rem 0 } ol.way li { flex: 1; padding-top: .5rem;
  border-top: 4px solid var(--line); color: var(--soft); font-size: .9rem } ol.way li.done { border-color: var(--mark); color: var(--ink) }
ol.way li.bad { border-color: var(--warn); color: var(--warn) } a { color: var(--mark) } code { font-size: .9em; word-break: break-all }
"""
WORDS = {"SUBMITTED": "We have your order", "STOCK_RESERVED": "It is held for you", "PAID": "Paid. It is yours",
         "CANCELLED": "This order is cancelled"}
REASONS = {"SOLD_OUT": "Somebody else was faster: there are not that many left.", "EXPIRED": "The time to pay was over.",
           "RELEASED": "The units were given back.", "BY_CUSTOMER": "You have cancelled it. Nothing was charged.",
           "CARD_DECLINED": "The card was declined. Nothing was charged.", "NO_ANSWER": "We could not take it. Nothing was charged.",
           "PAYMENT_TIMED_OUT": "The bank did not answer in time. Nothing is charged."}
CARD_NAMES = {"good": "a card that is good", "declined": "a card that is declined", "slow": "a card whose bank answers late",
              "lost": "a card whose first request is lost", "silent": "a card whose bank never answers"}


def money(cents):
    return f"{cents // 100}.{cents % 100:02}"


def page(title, body, refresh=None):
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>{again}'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
            f"<body><main>{body}</main></body></html>")


def cart(catalogue, levels, order, most):
    """The cart: what there is, how much of it, and a button. `order` is the id that this cart's order will have."""
    rows = []
    for number, (sku, (name, price)) in enumerate(catalogue.items()):
        available, on_hand = levels.get(sku, (None, None))
        left = ("" if available is None else f"{available} left" if available > 0
                else "all in other carts, look again" if on_hand > 0 else "sold out")
        rows.append(f'<div class="row"><label for="{sku}"><b>{html.escape(name)}</b><br><span class="soft">{left}</span></label>'
                    f'<span class="price">{money(price)}</span><input id="{sku}" name="{sku}" type="number" min="0" max="{most}" '
                    f'value="{1 if number == 0 else 0}"></div>')
    return page("Your cart", f'<h1>Your cart</h1><p class="soft">Nothing is held until you check out.</p>'
                f'<form class="card" method="post" action="/checkout"><input type="hidden" name="order" value="{order}">'
                f'{"".join(rows)}<p></p><button class="main">Check out</button></form>')


def way(state):
    """The three states that an order goes through, and how far it is."""
    steps = ["SUBMITTED", "STOCK_RESERVED", "PAID"]
    at = steps.index(state) if state in steps else -1
    if at < 0:
        return '<ol class="way"><li class="done">SUBMITTED</li><li class="bad">CANCELLED</li></ol>'
    items = (f'<li class="{"done" if place <= at else ""}">{name}</li>' for place, name in enumerate(steps))
    return f'<ol class="way">{"".join(items)}</ol>'


def order(row, catalogue):
    """Where an order stands, and what its customer can do."""
    lines = ", ".join(f"{quantity} × {html.escape(catalogue[sku][0] if sku in catalogue else sku)}"
                      for sku, quantity in json.loads(row["lines"]))
    state, doing = row["state"], ""
    if row["next"] == "ASK":
        left = max(0, round(row["expires_at"] - time.time()))
        cards = "".join(f'<option value="{number}">{number[:4]} … {number[-4:]}: {CARD_NAMES[kind]}</option>'
                        for number, kind in CARDS.items())
        doing = (f'<p>Please pay within <b>{left} s</b>.</p><form class="line" method="post" action="/orders/{row["id"]}/pay">'
                 f'<select name="card" aria-label="Card">{cards}</select><button class="main">Pay {money(row["amount"])}</button></form>')
    elif state == "STOCK_RESERVED":
        doing = "<p>Your payment is on its way …</p>"
    elif state == "SUBMITTED":
        doing = "<p>We are looking for your units …</p>"
    elif state == "CANCELLED":
        doing = f'<p>{html.escape(REASONS.get(row["reason"], row["reason"]))}</p>'
    if row["next"] in ("PUBLISH", "ASK"):
        doing += f'<form class="line" method="post" action="/orders/{row["id"]}/cancel"><button>Cancel the order</button></form>'
    # A form that is being filled in is left alone until the hold has ended.
    refresh = {"": None, "ASK": max(1, round(row["expires_at"] - time.time()) + 1)}.get(row["next"], 1)
    return page(WORDS[state], f'<h1>{WORDS[state]}</h1><p class="soft">{lines} · {money(row["amount"])}</p>'
                f'<div class="card">{way(state)}{doing}</div><p class="soft">Order <code>{row["id"]}</code></p>'
                '<p><a href="/">Back to the cart</a></p>', refresh)


def trouble(message):
    return page("That did not work", f'<h1>That did not work</h1><p>{html.escape(message)}</p><p><a href="/">To the cart</a></p>')
