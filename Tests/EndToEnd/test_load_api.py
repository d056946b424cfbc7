"""The load generator against the server, over all that the API has: what its ledger says of every scenario."""

import json
import subprocess

import pytest


def load(generator, server, *flags):
    done = subprocess.run(
        [generator, "run", "--target", server.target, "--seed", "1", "--warm-up", "0", "--json", "-", *map(str, flags)],
        capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


SOME_MESSAGES = ["--skus", 1000, "--units", 5, "--operations", 20000, "--batch", 200, "--connections", 2, "--streams", 2]

# Of each scenario what has to have happened, and what it takes for that in a second or two.
SCENARIOS = {
    "cart-changes": (["--skus", 5, "--distribution", "uniform", "--units", 40, "--operations", 3000, "--duplicate-share", 0.1],
                     {"replaced", "refused, no stock", "replayed"}),
    "preorder": (["--skus", 2, "--operations", 3000], {"confirmed", "restocked", "refused, no stock"}),
    "warehouses": (["--skus", 6, "--units", 40, "--operations", 3000, "--restock-units", "1-5"],
                   {"confirmed", "released", "restocked", "refused, no stock", "replayed"}),
    "per-customer": (["--skus", 3, "--units", 80, "--subjects", 50, "--operations", 3000],
                     {"confirmed", "released", "refused, no stock", "refused, over the limit", "replayed"}),
    "count": (["--skus", 5, "--units", 200, "--operations", 3000, "--duplicate-share", 0.1],
              {"read", "restocked", "confirmed", "replayed"}),
    "batch": ([*SOME_MESSAGES], {"reserved", "refused, no stock"}),
    "stream": ([*SOME_MESSAGES, "--close-share", 0.02, "--retries-unknown", "true"],
               {"reserved", "refused, no stock", "replayed"}),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_a_scenario_does_adds_up(generator, server, scenario):
    flags, outcomes = SCENARIOS[scenario]
    status, report, errors = load(generator, server, "--scenario", scenario, "--watch", *flags)
    assert status == 0, (report or {}).get("verdict", errors)
    assert report["check"]["feed"]["is_whole"] and report["check"]["feed"]["decisions_compared"] > 1000
    assert outcomes <= set(report["outcomes"]), report["outcomes"]
    assert report["check"]["linearizable"] != "no"
    assert sum(report["outcomes"].values()) == report["attempts"] + report["unsent"]
    if scenario in ("batch", "stream"):
        assert report["messages"]["requests_per_message"] > 50
        assert report["messages"]["latency_microseconds"]["count"] > 10


def test_the_largest_messages_and_a_rate(generator, server):
    status, report, errors = load(generator, server, "--api", "stream", "--batch", 8192, "--operations", 60000,
                                  "--connections", 2, "--streams", 2, "--confirm-share", 0, "--release-share", 0)
    assert status == 0, errors
    assert report["messages"]["requests_per_message"] > 4000
    status, report, errors = load(generator, server, "--api", "batch", "--rate", 3000, "--duration", 1)
    assert status == 0, errors
    assert report["unsent"] == 0 and report["latency_microseconds"]["Reserve"]["count"] > 1000


def test_a_catalogue(generator, server, tmp_path):
    rows = "".join(f"SKU-{number},shelf-{number % 3},{number % 7},{1 + number % 5}\n" for number in range(300))
    path = tmp_path / "items.csv"
    path.write_text("sku,location,on_hand,weight\n" + rows)
    status, report, errors = load(generator, server, "--skus-file", path, "--operations", 2000)
    assert status == 0, errors
    assert report["check"]["skus"] == 300 and report["check"]["stock"] == sum(number % 7 for number in range(300))
    path.write_text("a,,1\nb,,-1\n")
    status, _, errors = load(generator, server, "--skus-file", path)
    assert (status, errors) == (2, f"holdfast-load: {path}, line 2: on_hand must be 0 to 2^40, not '-1'\n")
    status, _, errors = load(generator, server, "--skus-file", path, "--skus", 5)
    assert status == 2 and "--skus-file goes without --skus" in errors
