#!/usr/bin/env python3
"""A shop whose orders go through the queue, a thousand impatient shoppers, and 100 units.

Starts RabbitMQ, the server, `holdfast relay`, `holdfast intake`, a payment provider and the shop of examples/orders. While the
shoppers shop, each of the six is killed (kill -9) once, and started again. Then says whether 100 units were sold, whether anybody
paid without a unit, whether a unit is gone without an order, and whether every order has ended. Then come the naive shops with
the same shoppers, and one table of all. Everything is stopped and removed.

The exit status is the verdict's: 0 all holds, 1 violated, 2 could not run.

    demo-orders.py --open        starts all, with no shoppers, and says where the shop is: look for yourself, until Ctrl-C
"""
import argparse, http.client, importlib.resources, json, os, pathlib, re, signal, sqlite3, subprocess
import sys, threading, time, urllib.parse, urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "orders"
sys.path[:0] = [str(REPOSITORY / "Tests" / "EndToEnd"), str(EXAMPLE), str(EXAMPLE / "naive")]

from lifetime import Folder, tied  # noqa: E402  the tests' folder must be on the path first

SKU, PRICE = "ticket", 4900
START_SECONDS, STOP_SECONDS = 30, 20
# How long the orders may take to end once the last shopper has left.
SETTLE_SECONDS = 120
# Of the units, what there is before all parts were killed; the rest is delivered then, so that no kill comes when all is over.
FIRST_DELIVERY, LAST_KILL = 0.8, 0.6
# Of the shop and the provider here: everything is quicker than it would be for people.
PROVIDER_TIMEOUT, SILENCE, PATIENCE = 0.5, 1.5, 3.0
# The shop is not to ask what became of a hold: an event that is lost would leave an order without an end, and be seen.
NEVER = 86400
RETRY_SECONDS = 0.2
STATES = {1: "HELD", 2: "CONFIRMED", 3: "RELEASED", 4: "EXPIRED"}


def say(text):
    print(f"demo-orders: {text}", flush=True)


def make_stubs(folder):
    """Python's modules of the API, as `make` in the example makes them."""
    from grpc_tools import protoc
    protos = sorted(map(str, (REPOSITORY / "proto" / "holdfast").rglob("*.proto")))
    status = protoc.main(["protoc", f"-I{REPOSITORY / 'proto'}", f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
                          f"--python_out={folder}", f"--grpc_python_out={folder}", *protos])
    if status != 0:
        raise RuntimeError(f"protoc failed with status {status}")
    sys.path.insert(0, str(folder))


class Part:
    """A process that can be killed, and started again as the same: its address and its files stay."""

    def __init__(self, name, command, log, environment=()):
        self.name, self.command, self.log = name, list(map(str, command)), log
        self.environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **dict(environment)}
        self.process = None
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(tied(*self.command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            text=True, env=self.environment)
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        self.says = self.process.stdout.readline().strip()
        watchdog.cancel()
        if not self.says:
            self.process.wait()
            raise RuntimeError(f"{self.name} does not come up:\n{self.log_text()[-4000:]}")
        # It may say more: nobody is to wait for room in the pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def log_text(self):
        return pathlib.Path(self.log).read_text(errors="replace")

    def keep_port(self, pattern):
        """The port that the kernel has chosen is asked for when it is started again. Returns it."""
        port = re.search(pattern, self.says)[1]
        self.command[self.command.index("--port") + 1] = port
        return port

    def is_alive(self):
        return self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.is_alive():
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()


class Sale:
    """Everything that is needed to sell: six programs."""

    def __init__(self, options, folder):
        from rabbitmq import RabbitMQ
        self.options, self.folder, self.started = options, folder, []
        # Set once no more units will come.
        self.is_delivered = threading.Event()
        try:
            self.start(RabbitMQ)
        except BaseException:
            self.stop()
            raise

    def start(self, RabbitMQ):
        options, folder = self.options, self.folder
        make_stubs(folder)
        self.broker = RabbitMQ()
        self.broker.name = "broker"
        self.started.append(self.broker)
        broker = ["--broker", self.broker.address, "--broker-password-file", self.broker.password_file]
        self.server = self.part("server", options.server, "serve", "--port", "0", "--admin-port", "0", "--data-dir", folder / "data",
                                "--journal-segment-bytes", 16 << 20)
        self.target = f"127.0.0.1:{self.server.keep_port(r'grpc 127.0.0.1:([0-9]+)')}"
        target = ["--target", self.target, "--admin-port", "0"]
        self.relay = self.part("relay", options.server, "relay", *broker, *target, "--resume-file", folder / "resume")
        self.intake = self.part("intake", options.server, "intake", *broker, *target)
        example = {"PYTHONPATH": str(folder)}
        self.provider = self.part("provider", sys.executable, EXAMPLE / "provider.py", "--port", "0", "--database",
                                  folder / "payments.sqlite", "--silence", SILENCE)
        provider = f"http://127.0.0.1:{self.provider.keep_port('127.0.0.1:([0-9]+)')}"
        self.shop = self.part("shop", sys.executable, EXAMPLE / "shop.py", *broker, "--target", self.target, "--port", options.port,
                              "--provider", provider, "--database", folder / "shop.sqlite", "--provider-timeout", PROVIDER_TIMEOUT,
                              "--patience", PATIENCE, "--hold", options.hold, "--ask-after", NEVER, environment=example)
        self.address = f"127.0.0.1:{self.shop.keep_port('127.0.0.1:([0-9]+)')}"
        self.payments = provider + "/payments"

    def part(self, name, *command, environment=()):
        part = Part(name, command, self.folder / f"{name}.log", environment)
        self.started.append(part)
        return part

    def stop(self):
        for each in reversed(self.started):
            each.stop()

    def deliver(self, units, is_last=False):
        from client import Client
        with Client(self.target) as client:
            client.adjust(SKU, delta=units, reason="delivery")
        if is_last:
            self.is_delivered.set()

    def orders(self):
        """Every order, from the shop's database."""
        database = sqlite3.connect(f"file:{self.folder / 'shop.sqlite'}?mode=ro", uri=True, timeout=30)
        database.row_factory = sqlite3.Row
        try:
            return {row["id"]: dict(row) for row in database.execute("select * from orders")}
        finally:
            database.close()

    def sold(self):
        return sum(row["state"] == "PAID" for row in self.orders().values())


class Visit(threading.Thread):
    """One shopper in the shop: opens the cart, checks out, looks again and again, pays or does not."""

    def __init__(self, sale, shopper, began):
        super().__init__(daemon=True)
        self.sale, self.shopper, self.began, self.address, self.over = sale, shopper, began, sale.address, threading.Event()
        self.connection = None
        # {order: the last state that the shop has told}
        self.told = {}
        self.trouble = None

    def run(self):
        try:
            self.shop()
        except Exception as error:
            self.trouble = f"shopper {self.shopper.number}: {error!r}"
        finally:
            if self.connection:
                self.connection.close()

    def ask(self, method, path, body=None):
        """(status, text). A shop that does not answer is asked again, for as long as it takes."""
        while True:
            try:
                if not self.connection:
                    self.connection = http.client.HTTPConnection(self.address, timeout=10)
                kind = "application/json" if path.startswith("/api/") else "application/x-www-form-urlencoded"
                self.connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
                answer = self.connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.connection = None
                if self.over.is_set():
                    raise
                time.sleep(RETRY_SECONDS)

    def click(self, path, body):
        """As often as this shopper clicks, all at once."""
        others = [Click(self.address, path, body) for _ in range(self.shopper.clicks - 1)]
        try:
            return self.ask("POST", path, body)
        finally:
            for other in others:
                other.join()

    def shop(self):
        shopper = self.shopper
        time.sleep(max(0, self.began + shopper.arrives - time.monotonic()))
        while not self.over.is_set():
            if self.buy() == "PAID" or not shopper.insists:
                return
            empty = 0
            while not self.over.is_set():
                time.sleep(shopper.thinks)
                no_more_comes = self.sale.is_delivered.is_set()
                level = json.loads(self.ask("GET", "/api/stock")[1]).get(SKU)
                if level and level["available"] > 0:
                    break
                # Twice: what the shop shows may be a moment old.
                empty += bool(no_more_comes and level and level["on_hand"] == 0)
                if empty == 2:
                    return

    def buy(self):
        shopper = self.shopper
        _, cart = self.ask("GET", "/")
        order = re.search(r'name="order" value="([0-9a-f]+)"', cart)[1]
        time.sleep(shopper.thinks / 2)
        status, _ = self.click("/checkout", urllib.parse.urlencode({"order": order, SKU: 1}))
        assert status == 303, status
        if self.wait(order, lambda it: it["state"] != "SUBMITTED") != "STOCK_RESERVED" or shopper.pays_after is None:
            return None
        time.sleep(shopper.pays_after)
        status, _ = self.click(f"/api/orders/{order}/payment", json.dumps({"card": shopper.card}))
        assert status in (202, 409), status
        return self.wait(order, lambda it: it["is_final"])

    def wait(self, order, condition):
        """Looks at the order until that is so. Returns its state."""
        while True:
            status, text = self.ask("GET", f"/api/orders/{order}")
            assert status == 200, text
            found = json.loads(text)
            if self.told.get(order) in ("PAID", "CANCELLED"):
                assert found["state"] == self.told[order], f"{order} was {self.told[order]}, and is {found['state']}"
            self.told[order] = found["state"]
            if condition(found) or self.over.is_set():
                return found["state"]
            time.sleep(self.shopper.thinks / 2)


class Click(threading.Thread):
    """A second click, of which nobody waits for the answer."""

    def __init__(self, address, path, body):
        super().__init__(daemon=True)
        self.address, self.path, self.body = address, path, body
        self.start()

    def run(self):
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            kind = "application/json" if self.path.startswith("/api/") else "application/x-www-form-urlencoded"
            connection.request("POST", self.path, self.body, {"Content-Type": kind})
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def kill_each(sale):
    """Kills each part in the middle of the sale, evenly until LAST_KILL of the units are sold. Returns how many kills there were."""
    parts = [sale.intake, sale.server, sale.relay, sale.shop, sale.provider, sale.broker] * sale.options.kills
    for place, part in enumerate(parts, 1):
        enough = int(place / len(parts) * LAST_KILL * sale.options.units)
        wait_until(lambda: sale.sold() >= enough, SETTLE_SECONDS, f"the sale goes on before {part.name} is killed")
        sold, began = sale.sold(), time.monotonic()
        part.kill()
        time.sleep(0.5)
        part.start()
        say(f"{sold:3} sold: kill -9 of {part.name}; up again after {time.monotonic() - began:.1f} s")
    return len(parts)


def settle(sale, visits):
    """Until the last shopper has left and every order has ended, or for so long."""
    deadline = time.monotonic() + SETTLE_SECONDS
    for visit in visits:
        visit.join(max(0.1, deadline - time.monotonic()))
    for visit in visits:
        visit.over.set()
    for visit in visits:
        visit.join(max(1, deadline - time.monotonic()))
    while time.monotonic() < deadline and any(row["next"] for row in sale.orders().values()):
        time.sleep(0.2)


def judge(sale, client, visits):
    """{what must hold: whether it does}, and the figures: from the shop, the server and the payment provider, beside each other."""
    orders, units = sale.orders(), sale.options.units
    paid = {id for id, row in orders.items() if row["state"] == "PAID"}
    payments = {row["order"]: row for row in json.load(urllib.request.urlopen(sale.payments, timeout=10))}
    charged = {id for id, row in payments.items() if row["state"] == "CAPTURED"}
    holds = client.list()
    states = {"CONFIRMED": [], "HELD": []}
    for hold in holds:
        states.setdefault(STATES[hold.state], []).append(hold)
    confirmed = [hold.reference for hold in states["CONFIRMED"]]
    sold = sum(line.quantity for hold in states["CONFIRMED"] for line in hold.lines)
    level = client.level(SKU)
    stuck = [id for id, row in orders.items() if row["next"] or row["state"] not in ("PAID", "CANCELLED")]
    told = {order: state for visit in visits for order, state in visit.told.items()}
    checks = {
        f"{units} sold, none more, none left": sold == units and (level.on_hand, level.held, level.available) == (0, 0, 0),
        "nobody paid without a unit": charged <= set(confirmed) and all(
            id in orders and payments[id]["amount"] == orders[id]["amount"] == PRICE for id in charged),
        "nobody has a unit without having paid": set(confirmed) <= charged,
        "no unit without an order": sorted(confirmed) == sorted(paid) and not states["HELD"],
        "every order in a final state": not stuck,
        "no money set aside for nothing": not any(row["state"] == "AUTHORIZED" for row in payments.values()),
        "a second click is no second order": orders.keys() == told.keys(),
        "what a shopper was told is so": all(orders[id]["state"] == state for id, state in told.items()
                                             if id in orders and state in ("PAID", "CANCELLED")),
        "no shopper has seen anything else go wrong": not any(visit.trouble for visit in visits),
    }
    reasons = {}
    for row in orders.values():
        reasons[row["reason"] or row["state"]] = reasons.get(row["reason"] or row["state"], 0) + 1
    figures = {"orders": len(orders), "reasons": reasons, "holds": len(holds), "charged": len(charged), "sold": sold,
               "paid_without_unit": len(charged - set(confirmed)), "stuck": len(stuck),
               "lost": units - sold - max(0, level.available), "troubles": [visit.trouble for visit in visits if visit.trouble][:5]}
    return checks, figures


def sell(sale, options):
    """The sale, the kills, the verdict."""
    from client import Client
    from shoppers import shoppers
    first = round(options.units * FIRST_DELIVERY) if options.kills else options.units
    sale.deliver(first, is_last=not options.kills)
    people = shoppers(options.shoppers, options.hold, options.sale, options.seed)
    say(f"{len(people)} shoppers, {options.units} units, holds of {options.hold:g} s, seed {options.seed}: http://{sale.address}")
    began = time.monotonic()
    visits = [Visit(sale, each, began) for each in people]
    for visit in visits:
        visit.start()
    kills = kill_each(sale)
    if kills:
        sale.deliver(options.units - first, is_last=True)
    settle(sale, visits)
    say(f"all have left after {time.monotonic() - began:.0f} s")
    with Client(sale.target) as client:
        checks, figures = judge(sale, client, visits)
    return checks, {**figures, "kills": kills, "seconds": round(time.monotonic() - began, 1)}


def compare(options, figures):
    """The naive shops with the same shoppers, and the table of all."""
    import run as naive
    from postgres import Postgres
    from shoppers import shoppers
    people = shoppers(options.shoppers, options.hold, options.sale, options.seed)
    with Postgres() as database:
        results = [naive.measure(version, database, people, options.units, options.hold, options.seed)
                   for version in naive.VERSIONS]
    kills = {0: "", 1: ", each part killed once"}.get(options.kills, f", each part killed {options.kills} times")
    ours = naive.Result(f"Holdfast{kills}", options.units, figures["sold"], figures["paid_without_unit"], figures["lost"],
                        figures["stuck"])
    return [*results, ours], naive.table([*results, ours])


def demo(options, folder):
    sale = Sale(options, folder)
    try:
        say("up: RabbitMQ, holdfast serve, relay and intake, the payment provider, the shop")
        if options.open:
            return look(sale)
        checks, figures = sell(sale, options)
    except BaseException:
        for part in sale.started[1:]:
            if not part.is_alive():
                print(part.log_text()[-2000:], file=sys.stderr)
        raise
    finally:
        sale.stop()
    for what, holds in checks.items():
        print(f"  {'yes' if holds else 'NO '}  {what}")
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(figures["reasons"].items(), key=lambda it: -it[1]))
    say(f"{figures['orders']} orders: {reasons}")
    for trouble in figures["troubles"]:
        say(trouble)
    results = []
    if not options.no_naive:
        say("the naive shops, with the same shoppers")
        results, table = compare(options, figures)
        print(table)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(
            {"checks": checks, **figures, "table": [result.row() for result in results]}, indent=1))
    return 0 if all(checks.values()) else 1


def look(sale):
    """Until somebody has seen enough."""
    from client import Client
    with Client(sale.target) as client:
        for sku in ("ticket", "shirt", "poster"):
            client.adjust(sku, set_on_hand=sale.options.units, reason="delivery")
    say(f"the shop is open: http://{sale.address} (Ctrl-C closes it); the server's console: "
        f"{re.search('http://[0-9.:]+', sale.server.says)[0]}/console")
    closed = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: closed.set())
    closed.wait()
    return 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoppers", type=int, default=1000)
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--hold", type=float, default=None, help="seconds for which units are held; 4, or 120 with --open")
    parser.add_argument("--sale", type=float, default=20, help="seconds within which the shoppers come")
    parser.add_argument("--seed", type=int, default=7, help="of the shoppers")
    parser.add_argument("--port", type=int, default=0, help="of the shop; 0: a free one")
    parser.add_argument("--server", default=REPOSITORY / ".build/release/holdfast")
    parser.add_argument("--json", metavar="FILE", help="the verdict and the table, for programs")
    parser.add_argument("--kills", type=int, default=1, help="how often each part is killed")
    parser.add_argument("--no-naive", action="store_true")
    parser.add_argument("--open", action="store_true")
    options = parser.parse_args()
    options.hold = options.hold or (120 if options.open else 4)
    return options


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.stack_size(512 * 1024)
    folder = Folder("holdfast-orders-")
    try:
        status = demo(options, folder.path)
    except (RuntimeError, AssertionError, OSError) as error:
        say(f"could not run: {error}")
        status = 2
    except KeyboardInterrupt:
        status = 130
    finally:
        folder.remove()
    if not options.open:
        say({0: "GOOD: every order ended right", 1: "VIOLATED"}.get(status, "no verdict"))
    sys.exit(status)


if __name__ == "__main__":
    main()
