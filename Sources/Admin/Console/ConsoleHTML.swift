// Made of web/console/console.html by scripts/embed-console.py: change that one.

/// The page.
enum ConsoleHTML {
  static let text = ##"""
    <!doctype html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>Holdfast console</title>
    <link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%230b6b57'/%3E%3Cpath d='M5 3v10M11 3v10M5 8h6' stroke='%23fff' stroke-width='2' fill='none'/%3E%3C/svg%3E">
    <link rel="stylesheet" href="/console/console.css">
    <script src="/console/console.js" defer></script>
    </head>
    <body>
    <a class="skip" href="#main">Skip to the numbers</a>
    <header>
    <h1>Holdfast</h1>
    <p class="badges" id="badges" aria-label="State of the server">
    <span class="badge" id="badge-state">…</span>
    <span class="badge" id="badge-checks">…</span>
    <span class="badge" id="badge-live" role="status">no live numbers yet</span>
    </p>
    <div class="tools">
    <button type="button" id="theme" hidden>Theme: system</button>
    {{account}}
    </div>
    </header>
    <noscript>
    <p class="note">The live page needs its script. This is the newest state; load the page again for a newer one.
    <a href="/console/state">As JSON</a>.</p>
    <table class="plain"><caption>State of the server</caption>
    {{rows}}
    </table>
    </noscript>
    <p class="alarm" id="alarm" role="alert" hidden></p>
    <main id="main">
    <section class="tiles" aria-label="At a glance" id="tiles"></section>

    <section class="card wide" aria-labelledby="h-rates">
    <h2 id="h-rates">Decisions a second <small>last five minutes</small></h2>
    <div class="chart" id="chart-rates"></div>
    </section>

    <section class="card wide" aria-labelledby="h-latency">
    <h2 id="h-latency">Latency of reserves, p99 <small>ms, last five minutes</small></h2>
    <div class="chart" id="chart-latency"></div>
    </section>

    <div class="wide stack">
    <section class="card" aria-labelledby="h-methods">
    <h2 id="h-methods">Latency by method <small>ms, last minute; within 3 %</small></h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="h-methods">
    <table id="methods"><thead><tr><th scope="col">Method</th><th scope="col">calls/s</th><th scope="col">failed/s</th><th scope="col">p50</th><th scope="col" class="p90">p90</th><th scope="col">p99</th><th scope="col">p99.9</th></tr></thead><tbody></tbody></table>
    </div>
    </section>

    <section class="card" aria-labelledby="h-codes"><h2 id="h-codes">Status codes</h2><table id="codes"><thead><tr><th scope="col">Code</th><th scope="col">a second</th><th scope="col">since the start</th></tr></thead><tbody></tbody></table></section>
    </div>

    <section class="card wide" aria-labelledby="h-hot">
    <h2 id="h-hot">Hot SKUs <small>a second, fading over half a minute</small></h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="h-hot">
    <table id="hot"><thead><tr><th scope="col">SKU</th><th scope="col">held/s</th><th scope="col" class="share">share</th><th scope="col">refused/s</th><th scope="col">conflicts/s</th></tr></thead><tbody></tbody></table>
    </div>
    </section>

    <section class="card whole" aria-labelledby="h-lookup">
    <h2 id="h-lookup">Look up</h2>
    <div class="forms">
    <form id="form-stock" action="/console/stock" method="get">
    <label>SKU <input name="sku" required maxlength="64" autocomplete="off" spellcheck="false"></label>
    <label>Location <input name="location" maxlength="64" autocomplete="off" spellcheck="false" placeholder="default"></label>
    <button type="submit">Look up stock</button>
    </form>
    <form id="form-reservation" action="/console/reservation" method="get">
    <label>Reservation <input name="id" required maxlength="64" autocomplete="off" spellcheck="false"></label>
    <button type="submit">Look up reservation</button>
    </form>
    </div>
    <div id="answer" aria-live="polite" tabindex="-1"></div>
    </section>

    <section class="card" aria-labelledby="h-outcomes">
    <h2 id="h-outcomes">Outcomes</h2>
    <table id="outcomes"><thead><tr><th scope="col">Reservations</th><th scope="col">a second</th><th scope="col">since the start</th></tr></thead><tbody></tbody></table>
    </section>

    <section class="card" aria-labelledby="h-conflicts"><h2 id="h-conflicts">Conflicts and retries</h2><dl id="conflicts"></dl></section>
    <section class="card" aria-labelledby="h-journal"><h2 id="h-journal">Journal</h2><dl id="journal"></dl></section>
    <section class="card" aria-labelledby="h-disk"><h2 id="h-disk">Disk</h2><dl id="disk"></dl></section>
    <section class="card" aria-labelledby="h-tables"><h2 id="h-tables">Room in memory</h2><dl id="tables"></dl></section>
    <section class="card" aria-labelledby="h-network"><h2 id="h-network">Connections and watches</h2><dl id="network"></dl></section>
    <section class="card" aria-labelledby="h-replication" id="card-replication" hidden><h2 id="h-replication">Replication</h2><dl id="replication"></dl></section>
    <section class="card" aria-labelledby="h-checks"><h2 id="h-checks">Checks of balances</h2><dl id="checks"></dl><p class="note">A sweep reads every item in turn: nothing below zero, no more promised than on hand unless that was allowed. It does not add up holds.</p></section>

    </main>
    <footer><p id="about"></p></footer>
    </body>
    </html>

    """##
}
