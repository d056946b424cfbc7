#!/usr/bin/env python3
"""The drawings of docs/WHY.md, in docs/pictures: its table as bars, and for each flow who says what to whom, from top to bottom.
Light and dark are in each file.

    why-pictures.py [FOLDER]     with --check: changes nothing, exit status 1 where a drawing is another

Look at them before they are committed.
"""
import html, pathlib, re, sys

HERE = pathlib.Path(__file__).resolve().parent.parent
WIDTH, MARGIN, TOP, STEP, FOOT = 840, 90, 74, 42, 62
STYLE = """
  .paper { fill: #ffffff; stroke: #d9d6cf } .head { fill: #f1efea; stroke: #c9c5bb } .life { stroke: #c9c5bb; stroke-dasharray: 3 4 }
  text { font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1d2430 } .name { font-weight: 600 }
  .soft { fill: #5c6675; font-style: italic } .says { stroke: #1d2430 } .tip { fill: #1d2430 }
  .bad { fill: #b3261e; font-weight: 600 } .bad-line { stroke: #b3261e } .bad-tip { fill: #b3261e }
  .good { fill: #17694d; font-weight: 600 } .good-line { stroke: #17694d } .good-tip { fill: #17694d }
  .bar { fill: #e3c27a; stroke: #a5811f } .halo { fill: #ffffff } .served { fill: #2e8b68 } .unserved { fill: #c8463c }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #171b21; stroke: #363d48 } .head { fill: #242a33; stroke: #4a5361 } .life { stroke: #4a5361 }
    text { fill: #e8e6e1 } .soft { fill: #a7aebb } .says { stroke: #e8e6e1 } .tip { fill: #e8e6e1 }
    .bad { fill: #ff9386 } .bad-line { stroke: #ff9386 } .bad-tip { fill: #ff9386 }
    .good { fill: #6fd0a8 } .good-line { stroke: #6fd0a8 } .good-tip { fill: #6fd0a8 }
    .bar { fill: #7a6224; stroke: #d9b65c } .halo { fill: #171b21 } .served { fill: #3d9c78 } .unserved { fill: #d9604f }
  }
"""


def say(sender, receiver, text, kind=""):
    """An arrow. kind: "", "bad", "good"."""
    return "arrow", sender, receiver, text, kind


def note(lane, text, kind="soft"):
    """Words at somebody's line."""
    return "note", lane, lane, text, kind


def bar(lane, text, steps):
    """Something that lasts from here for so many steps, such as a lock."""
    return "bar", lane, lane, text, steps


FLOWS = {
    "check-then-act": (
        "The cart is validated, then the order is placed", ["Ann", "Ben", "stock"], [
            say("Ann", "stock", "how many are left?"), say("stock", "Ann", "1"),
            say("Ben", "stock", "how many are left?"), say("stock", "Ben", "1"),
            note("Ann", "reads her cart"),
            say("Ann", "stock", "order: units − 1", "good"), note("stock", "0 left"),
            say("Ben", "stock", "order: units − 1", "bad"), note("stock", "−1 left", "bad"),
        ], "What Ben was told was true when he was told. Two have ordered, one will get nothing."),
    "lock-without-fencing": (
        "The last unit, and a lock of ten minutes", ["Ann", "lock", "Ben", "unit 1"], [
            say("Ann", "lock", "lock unit 1"), bar("lock", "Ann's, 10 min", 3), note("Ann", "looks for her card"),
            note("Ann", "… the bank is slow …"),
            note("lock", "time is up: free again"),
            say("Ben", "lock", "lock unit 1"), bar("lock", "Ben's, 10 min", 4),
            say("Ben", "unit 1", "paid: sold to Ben", "good"),
            note("Ann", "paid, at last"),
            say("Ann", "unit 1", "sold to Ann", "bad"),
        ], "Ann's write does not say which lock it was made under, so nobody can refuse it. Both have paid."),
    "validate-then-remove": (
        "Validated when the order comes in, removed when it is paid", ["Ann", "Ben", "bank", "stock"], [
            say("Ann", "stock", "order: is one left?"), say("stock", "Ann", "yes"),
            say("Ben", "stock", "order: is one left?"), say("stock", "Ben", "yes"),
            say("Ann", "bank", "pay"), say("Ann", "stock", "remove one: 0 left", "good"),
            say("Ben", "bank", "pay"), note("bank", "Ben is charged"),
            say("Ben", "stock", "remove one: refused", "bad"),
        ], "The database keeps the stock right. Ben's money is gone, and his order stays in payment for ever."),
    "queue-without-idempotence": (
        "Carts through a queue, with the states BLOCK and FAILED", ["Ann", "queue", "consumer", "stock"], [
            say("Ann", "queue", "OrderPlaced 7"), say("queue", "consumer", "OrderPlaced 7"),
            say("consumer", "stock", "block one: units − 1", "good"),
            note("consumer", "dies before the ack", "bad"),
            say("queue", "consumer", "OrderPlaced 7, again"),
            say("consumer", "stock", "block one: units − 1", "bad"), note("stock", "2 blocked for one order", "bad"),
            say("queue", "consumer", "BLOCK timed out"), say("consumer", "stock", "FAILED 7: units + 1"),
            say("Ann", "queue", "PaymentDone 7"), say("queue", "consumer", "PaymentDone 7"),
            say("consumer", "stock", "PAID 7: no unit", "bad"),
        ], "Delivered at least once: an effect must know whether it was had, and what the order is by now."),
    "holdfast": (
        "The same order with Holdfast", ["Ann", "shop", "queue", "Holdfast", "bank"], [
            say("Ann", "shop", "check out: order 7"), note("shop", "SUBMITTED: a row of the outbox"),
            say("shop", "queue", "OrderPlaced 7"),
            say("queue", "Holdfast", "Reserve, key 7"), bar("Holdfast", "held", 5),
            say("Holdfast", "queue", "StockReserved 7"), say("queue", "shop", "STOCK_RESERVED", "good"),
            say("Ann", "shop", "pay"), say("shop", "bank", "authorize 7"),
            say("shop", "Holdfast", "Confirm: sold, or gone", "good"),
            say("shop", "bank", "then capture 7, else void 7"), note("shop", "PAID, or CANCELLED", "good"),
            note("Holdfast", "no Confirm in time:"), say("Holdfast", "queue", "Expired 7"),
            say("queue", "shop", "CANCELLED 7", "bad"),
        ], "One place decides about units. Everything else may be repeated, and is, until it is known."),
}


def text_width(text):
    return len(text) * 7.2


def draw(title, lanes, steps, foot):
    """An SVG."""
    height = TOP + STEP * (len(steps) + 1) + FOOT
    gap = (WIDTH - 2 * MARGIN) / (len(lanes) - 1)
    x = {lane: MARGIN + place * gap for place, lane in enumerate(lanes)}
    bottom = TOP + STEP * (len(steps) + 0.6)
    parts = [f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>']
    for lane in lanes:
        parts.append(f'<line class="life" x1="{x[lane]:.0f}" y1="{TOP - 18}" x2="{x[lane]:.0f}" y2="{bottom:.0f}"/>')
    for place, (kind, lane, _, text, steps_long) in enumerate(steps):
        if kind == "bar":
            y = TOP + STEP * (place + 0.35)
            parts.append(f'<rect class="bar" x="{x[lane] - 6:.0f}" y="{y:.0f}" width="12" height="{STEP * steps_long:.0f}" rx="3"/>')
    for lane in lanes:
        parts.append(f'<rect class="head" x="{x[lane] - 60:.0f}" y="22" width="120" height="34" rx="8"/>'
                     f'<text class="name" x="{x[lane]:.0f}" y="44" text-anchor="middle">{html.escape(lane)}</text>')
    for place, step in enumerate(steps):
        parts.append(draw_step(step, x, TOP + STEP * (place + 0.85)))
    parts.append(f'<text class="soft" x="{WIDTH / 2:.0f}" y="{height - 24}" text-anchor="middle">{html.escape(foot)}</text>')
    return svg(title, height, parts)


def svg(title, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
            f"\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n")


def draw_table(page):
    """Those who have paid, as bars: with a unit, and without. The figures are those of the page's table."""
    rows = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[1].isdigit():
            units, sold, without = int(cells[1]), int(cells[2]), int(cells[4])
            rows.append((cells[0], min(units, sold), without))
    left, right, top, step = 300, WIDTH - 70, 62, 46
    scale = (right - left) / max(served + without for _, served, without in rows)
    height = top + step * len(rows) + 16
    parts = [f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
             f'<rect class="served" x="{left}" y="22" width="14" height="14" rx="2"/><text x="{left + 22}" y="34">paid, and has a unit</text>',
             f'<rect class="unserved" x="{left + 200}" y="22" width="14" height="14" rx="2"/>'
             f'<text x="{left + 222}" y="34">paid for nothing</text>']
    for place, (name, served, without) in enumerate(rows):
        y, middle, end = top + step * place, left + served * scale, left + (served + without) * scale
        parts.append(f'<text x="{left - 14}" y="{y + 20}" text-anchor="end">{html.escape(name)}</text>'
                     f'<rect class="served" x="{left}" y="{y}" width="{served * scale:.0f}" height="30"/>'
                     f'<rect class="unserved" x="{middle:.0f}" y="{y}" width="{without * scale:.0f}" height="30"/>'
                     f'<text class="name" x="{end + 10:.0f}" y="{y + 20}">{without}</text>')
    return svg("Who has paid, and who has a unit", height, parts)


def words(text, kind, x, y, anchor):
    """A text that stays readable where a line crosses it."""
    width = text_width(text)
    left = {"middle": x - width / 2, "start": x - 2, "end": x - width - 2}[anchor]
    return (f'<rect class="halo" x="{left:.0f}" y="{y - 13:.0f}" width="{width + 4:.0f}" height="17"/>'
            f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{html.escape(text)}</text>')


def draw_step(step, x, y):
    kind, sender, receiver, text, how = step
    if kind != "arrow":
        # At the right edge there is room on the left alone.
        last = x[sender] > WIDTH - MARGIN - 1
        style = "soft" if kind == "bar" else how
        return words(text, style, x[sender] + (-14 if last else 14), y, "end" if last else "start")
    start, end = x[sender], x[receiver]
    way = 1 if end > start else -1
    line, tip = (f"{how}-line", f"{how}-tip") if how else ("says", "tip")
    start, end = start + 7 * way, end - 7 * way
    return (words(text, how, (start + end) / 2, y - 8, "middle")
            + f'<line class="{line}" x1="{start:.0f}" y1="{y:.0f}" x2="{end - 6 * way:.0f}" y2="{y:.0f}" stroke-width="1.6"/>'
            + f'<path class="{tip}" d="M{end:.0f} {y:.0f} l{-9 * way} -5 v10 z"/>')


def main():
    arguments = [word for word in sys.argv[1:] if word != "--check"]
    folder = pathlib.Path(arguments[0]) if arguments else HERE / "docs/pictures"
    stale = []
    drawings = {f"flow-{name}.svg": draw(*flow) for name, flow in FLOWS.items()}
    drawings["why-figures.svg"] = draw_table((HERE / "docs/WHY.md").read_text())
    for name, drawing in drawings.items():
        file = folder / name
        if "--check" not in sys.argv:
            file.write_text(drawing)
        elif not file.exists() or file.read_text() != drawing:
            stale.append(file.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: stale; run scripts/why-pictures.py")


if __name__ == "__main__":
    main()
