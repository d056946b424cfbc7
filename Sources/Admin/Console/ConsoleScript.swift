// Made of web/console/console.js by scripts/embed-console.py: change that one.

/// The page's script.
enum ConsoleScript {
  static let text = ##"""
    // The console: shows what the server publishes once a second. Every text goes in as text (textContent), never as HTML: an
    // item may have any name.
    "use strict";

    const SECONDS = 300;
    const byId = (id) => document.getElementById(id);

    // MARK: Numbers as text

    const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

    function count(value) {
      return value === null || value === undefined ? "–" : grouped.format(value);
    }

    /** With as many digits as say something. */
    function rate(value) {
      if (value === null || value === undefined) return "–";
      if (value === 0) return "0";
      if (value < 0.01) return "<0.01";
      if (value < 10) return value.toFixed(value < 1 ? 2 : 1);
      return grouped.format(value);
    }

    function milliseconds(value) {
      if (value === null || value === undefined) return "–";
      return value < 10 ? value.toFixed(value < 0.1 ? 3 : 2) : value < 100 ? value.toFixed(1) : grouped.format(value);
    }

    function bytes(value) {
      if (value === null || value === undefined) return "–";
      const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
      let unit = 0;
      let rest = Math.abs(value);
      while (rest >= 1024 && unit < units.length - 1) { rest /= 1024; unit += 1; }
      const digits = unit === 0 || rest >= 100 ? 0 : 1;
      return `${value < 0 ? "−" : ""}${rest.toFixed(digits)} ${units[unit]}`;
    }

    function percent(value) {
      if (value === null || value === undefined) return "–";
      return value > 0 && value < 0.01 ? `${(value * 100).toFixed(1)} %` : `${Math.round(value * 100)} %`;
    }

    function duration(seconds) {
      if (seconds === null || seconds === undefined) return "–";
      if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
      if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
      if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
      if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
      return `${Math.round(seconds / 86400)} days`;
    }

    function time(ms) {
      if (ms === null || ms === undefined) return "–";
      return new Date(ms).toISOString().replace("T", " ").replace(/(\.\d+)?Z$/, " UTC");
    }

    // MARK: Elements

    /** An element with a text or children; nothing that is given here is read as HTML. */
    function make(name, options = {}, ...children) {
      const element = document.createElement(name);
      for (const [key, value] of Object.entries(options)) {
        if (key === "text") element.textContent = value;
        else if (key === "class") element.className = value;
        else element.setAttribute(key, value);
      }
      element.append(...children);
      return element;
    }

    function setText(element, text) {
      if (element.textContent !== text) element.textContent = text;
    }

    /** Fills a list of definitions: rows of name, value, and a class that says how it is. */
    function fillList(list, rows) {
      if (list.childElementCount !== rows.length * 2) {
        list.replaceChildren(...rows.flatMap(() => [make("dt"), make("dd")]));
      }
      rows.forEach(([name, value, mark], index) => {
        setText(list.children[2 * index], name);
        setText(list.children[2 * index + 1], value);
        list.children[2 * index + 1].className = mark || "";
      });
    }

    /** Fills a table's body: rows of texts or elements; the first is the row's heading. Rows that stay are kept, so that the
     *  keyboard's focus stays, too. */
    function fillTable(table, rows, nothing) {
      const body = table.tBodies[0];
      const columns = table.tHead.rows[0].cells.length;
      if (rows.length === 0) {
        const cell = make("td", { class: "empty text", colspan: columns, text: nothing });
        body.replaceChildren(make("tr", {}, cell));
        return;
      }
      if (body.querySelector(".empty")) body.replaceChildren();
      while (body.rows.length > rows.length) body.deleteRow(-1);
      rows.forEach((cells, index) => {
        let row = body.rows[index];
        if (!row) {
          row = body.insertRow();
          const headings = table.tHead.rows[0].cells;
          cells.forEach((_, column) => row.append(column === 0 ? make("th", { scope: "row" }) : make("td", { class: headings[column].className })));
        }
        cells.forEach((cell, column) => {
          if (typeof cell === "string") setText(row.cells[column], cell);
          else cell(row.cells[column]);
        });
      });
    }

    // MARK: At a glance

    const tiles = new Map();

    function tile(name, value, more, mark) {
      let parts = tiles.get(name);
      if (!parts) {
        parts = {
          box: make("div", { class: "tile", role: "group", "aria-label": name }),
          value: make("div", { class: "value" }), more: make("div", { class: "more" }),
        };
        parts.box.append(make("div", { class: "label", text: name }), parts.value, parts.more);
        byId("tiles").append(parts.box);
        tiles.set(name, parts);
      }
      setText(parts.value, value);
      setText(parts.more, more);
      parts.box.className = `tile ${mark || ""}`;
    }

    const sum = (...values) => values.every((value) => value === null) ? null : values.reduce((a, b) => a + (b || 0), 0);

    /** Hours until the disk is full, and how bad that is. */
    function horizon(disk) {
      if (disk.filling === null) return ["trend in a minute", ""];
      if (disk.hours === null) return ["not filling", ""];
      const mark = disk.hours < 4 ? "bad" : disk.hours < 48 ? "warn" : "";
      return [`full in ${disk.hours < 100 ? duration(disk.hours * 3600) : `${Math.round(disk.hours / 24)} days`}`, mark];
    }

    function showTiles(state) {
      const { rates, conflicts, holds, journal, disk } = state;
      const refused = sum(rates.refusedStock, rates.refusedLimit, rates.refusedOther);
      tile("Held a second", rate(rates.held), `${rate(rates.calls)} calls a second`);
      tile("Refused a second", rate(refused), `${rate(rates.refusedStock)} for lack of stock`);
      const reserve = state.methods.find((method) => method.name === "Reserve") || state.methods[0];
      tile(reserve ? `${reserve.name} p99` : "p99", reserve ? `${milliseconds(reserve.p99)} ms` : "–",
        reserve ? `p99.9 ${milliseconds(reserve.p999)} ms` : "no calls yet");
      tile("Conflicts a second", rate(sum(conflicts.locked, conflicts.changed)),
        `${rate(conflicts.tooBusy)} given up a second`, conflicts.tooBusy > 0 ? "warn" : "");
      tile("Live holds", count(holds.live),
        holds.due > 0 ? `${holds.dueIsAtLeast ? "at least " : ""}${count(holds.due)} due` : "none overdue",
        holds.due > 1000 ? "warn" : "");
      if (journal) {
        tile("Sync p99", `${milliseconds(journal.syncP99)} ms`, `${bytes(journal.lagBytes)} not durable yet`);
      }
      if (disk) {
        const [words, mark] = horizon(disk);
        tile("Disk free", bytes(disk.free), words, mark);
      }
    }

    // MARK: The rest

    const OUTCOMES = [
      ["held", "held"], ["confirmed", "confirmed"], ["released", "released"], ["expired", "expired"],
      ["replaced", "replaced"], ["refused: insufficient stock", "refusedStock"],
      ["refused: limit exceeded", "refusedLimit"], ["refused: other reasons", "refusedOther"],
      ["answered again (replays)", "replayed"], ["key reused, other payload", "keysReused"],
      ["stock adjusted", "adjusted"],
    ];

    function showTables(state) {
      fillTable(byId("outcomes"), OUTCOMES.map(([name, key]) => [name, rate(state.rates[key]), count(state.totals[key])]), "");
      fillTable(byId("methods"), state.methods.map((method) => [
        method.name, rate(method.rate), rate(method.failed), milliseconds(method.p50), milliseconds(method.p90),
        milliseconds(method.p99), milliseconds(method.p999),
      ]), "No calls yet.");
      fillTable(byId("codes"), state.codes.map((code) => [code.name, rate(code.rate), count(code.total)]), "No calls yet.");
      fillTable(byId("hot"), state.hot.map((item) => [
        (cell) => showHotItem(cell, item), rate(item.reserves || 0),
        percent(item.share), rate(item.refusals || 0), rate(item.conflicts || 0),
      ]), "Nothing was reserved lately.");
    }

    function showHotItem(cell, item) {
      if (!cell.firstChild) {
        const button = make("button", { type: "button" });
        button.addEventListener("click", () => lookUpStock(cell.dataset.sku, cell.dataset.location));
        const bar = make("div", { class: "bar", "aria-hidden": "true" }, make("span"));
        cell.append(make("div", { class: "sku" }, button, bar));
      }
      cell.dataset.sku = item.sku;
      cell.dataset.location = item.location;
      setText(cell.querySelector("button"), item.location ? `${item.sku} at ${item.location}` : item.sku);
      cell.querySelector(".bar span").style.width = `${Math.min(100, 100 * (item.share || 0))}%`;
    }

    function showLists(state) {
      const { conflicts, journal, disk, tables, network, watches, replication, checks, holds } = state;
      fillList(byId("conflicts"), [
        ["item was locked, a second", rate(conflicts.locked)],
        ["item had changed, a second", rate(conflicts.changed)],
        ["commits with a retry, a second", rate(conflicts.retried)],
        ["attempts per commit", conflicts.attempts === null ? "–" : conflicts.attempts.toFixed(3)],
        ["waits for another command, a second", rate(conflicts.waits)],
        ["given up as too busy, a second", rate(conflicts.tooBusy), conflicts.tooBusy > 0 ? "warn" : ""],
        ["conflicts since the start", count(conflicts.total)],
      ]);
      fillList(byId("journal"), journal ? [
        ["takes changes", journal.accepting ? "yes" : "no", journal.accepting ? "" : "bad"],
        ["syncs a second", rate(journal.syncs)],
        ["sync p50 / p99 / p99.9", `${[journal.syncP50, journal.syncP99, journal.syncP999].map(milliseconds).join(" / ")} ms`],
        ["decisions per sync", rate(journal.recordsPerSync)],
        ["written a second", bytes(journal.bytes)],
        ["not durable yet", bytes(journal.lagBytes)],
        ["last checkpoint", `${duration(journal.checkpointAge)} ago`],
        ["archive behind", journal.archiveLagBytes === null ? "no archive" : bytes(journal.archiveLagBytes)],
        ["times without room", count(journal.outOfSpace), journal.outOfSpace > 0 ? "warn" : ""],
      ] : [["durability memory", "no journal"]]);
      fillList(byId("disk"), disk ? [
        ["free", `${bytes(disk.free)} of ${bytes(disk.total)}`],
        ["at the rate of ten minutes", ...horizon(disk)],
        ["becomes fuller, a second", disk.filling === null ? "–" : bytes(disk.filling)],
        ["segments of the journal", bytes(disk.journal)],
      ] : [["durability memory", "no data directory"]]);
      const room = (used, most) => `${count(used)} of ${count(most)}`;
      const full = (used, most) => used > 0.95 * most ? "bad" : used > 0.8 * most ? "warn" : "";
      fillList(byId("tables"), [
        ["items", room(tables.items, tables.itemsMax), full(tables.items, tables.itemsMax)],
        ["decisions", room(tables.decisions, tables.decisionsMax)],
        ["forgotten early", count(tables.evictedEarly), tables.evictedEarly > 0 ? "warn" : ""],
        ["subjects with limits", room(tables.limits, tables.limitsMax), full(tables.limits, tables.limitsMax)],
        ["live holds", count(holds.live)],
        ["due, not ended yet", `${holds.dueIsAtLeast ? "at least " : ""}${count(holds.due)}`],
        ["longest wait of a due hold", duration(holds.expiryLagMax)],
      ]);
      fillList(byId("network"), [
        ["connections", room(network.connections, network.connectionsMax), full(network.connections, network.connectionsMax)],
        ["opened a second", rate(network.opened)],
        ["refused since the start", count(network.refused)],
        ["closed for abuse", count(network.abusive)],
        ["received / sent a second", `${bytes(network.received)} / ${bytes(network.sent)}`],
        ["watches", watches ? count(watches.count) : "none kept"],
        ["events a second", watches ? rate(watches.events) : "–"],
        ["slowest watcher behind", watches ? bytes(watches.lagBytes) : "–"],
      ]);
      showReplication(replication);
      const violations = checks.commitViolations + checks.sweepViolations;
      fillList(byId("checks"), [
        ["found by commits", count(checks.commitViolations), checks.commitViolations ? "bad" : ""],
        ["found by the sweep", count(checks.sweepViolations), checks.sweepViolations ? "bad" : ""],
        ["items swept since the start", count(checks.itemsChecked)],
        ["last whole sweep", checks.sweptSecondsAgo === null ? "none yet" : `${duration(checks.sweptSecondsAgo)} ago`],
        ...checks.findings.map((finding) => ["found", finding, "bad"]),
      ]);
      const alarm = byId("alarm");
      alarm.hidden = violations === 0;
      if (violations) setText(alarm, "Balances that cannot be were found: see the server's log, stop selling, and run holdfast verify.");
    }

    function showReplication(replication) {
      byId("card-replication").hidden = !replication;
      if (!replication) return;
      fillList(byId("replication"), replication.isOwner ? [
        ["role", "owner"], ["epoch", count(replication.epoch)],
        ["lease left", duration(replication.leaseLeft), replication.leaseLeft < 0.5 ? "warn" : ""],
        ["lease age", duration(replication.leaseAge)],
        ["standbys", count(replication.standbys), replication.standbys === 0 ? "warn" : ""],
        ["log in the engine", bytes(replication.logBytes)],
        ["takeovers", count(replication.takeovers)], ["doubts", count(replication.doubts)],
      ] : [
        ["role", "standby"], ["epoch", count(replication.epoch)],
        ["owner", replication.owner || "none"],
        ["behind", `${bytes(replication.lagBytes)}, ${duration(replication.lagSeconds)}`, replication.lagSeconds > 10 ? "warn" : ""],
        ["log in the engine", bytes(replication.logBytes)],
      ]);
    }

    function badge(id, text, mark) {
      setText(byId(id), text);
      byId(id).className = `badge ${mark}`;
    }

    function showBadges(state) {
      const ready = state.server.state;
      badge("badge-state", ready, ready === "ready" ? "good" : ready === "standby" ? "" : "warn");
      const { checks } = state;
      const violations = checks.commitViolations + checks.sweepViolations;
      if (!state.server.hasStore) badge("badge-checks", "no stock here yet", "");
      else if (violations) badge("badge-checks", `balances: ${count(violations)} impossible`, "bad");
      else if (checks.sweeps === 0) badge("badge-checks", "balances: first sweep goes on", "");
      else badge("badge-checks", "balances: none impossible", "good");
      const { server } = state;
      setText(byId("about"), `Holdfast ${server.version} (${server.build}), up ${duration(server.uptime)}, durability ${server.durability}, ` +
        `${server.strategy}, ${server.loops} ${server.loops === 1 ? "loop" : "loops"}. Rates are those of the last five seconds.`);
    }

    // MARK: Curves

    const curves = {
      rates: { box: "chart-rates", series: ["held", "refused", "conflicts"], format: rate },
      latency: { box: "chart-latency", series: ["p99", "sync"], format: milliseconds },
    };
    const NAMES = { held: "held", refused: "refused", conflicts: "conflicts", p99: "reserve p99", sync: "sync p99" };
    let past = {};

    function element(name, attributes) {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      return made;
    }

    function prepareCurve(curve) {
      const svg = element("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" });
      for (const y of [0.5, 50, 99.5]) svg.append(element("line", { class: "grid", x1: 0, x2: 300, y1: y, y2: y }));
      curve.paths = curve.series.map((name) => element("path", { class: `curve ${name}`, d: "" }));
      svg.append(...curve.paths);
      curve.legend = make("ul", { class: "legend" });
      curve.values = curve.series.map((name) => {
        const value = make("b");
        curve.legend.append(make("li", { class: name }, `${NAMES[name]} `, value));
        return value;
      });
      curve.top = make("span", { class: "top" });
      curve.svg = svg;
      const axis = make("p", { class: "axis" }, make("span", { text: "5 minutes ago" }), make("span", { text: "now" }));
      byId(curve.box).replaceChildren(svg, curve.top, axis, curve.legend);
    }

    /** The next of 1, 2, 5, 10, … */
    function roundUp(value) {
      if (!(value > 0)) return 1;
      const power = 10 ** Math.floor(Math.log10(value));
      return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) || 10 * power;
    }

    function drawCurve(curve) {
      if (!curve.svg) prepareCurve(curve);
      const all = curve.series.map((name) => past[name] || []);
      const top = roundUp(Math.max(...all.flat().map((value) => value || 0), 0));
      all.forEach((values, index) => {
        let path = "";
        let isDrawing = false;
        values.forEach((value, position) => {
          if (value === null) { isDrawing = false; return; }
          const x = SECONDS - values.length + position + 1;
          path += `${isDrawing ? "L" : "M"}${x} ${(99.5 - 99 * value / top).toFixed(1)}`;
          isDrawing = true;
        });
        curve.paths[index].setAttribute("d", path);
        setText(curve.values[index], curve.format(values.length ? values[values.length - 1] : null));
      });
      setText(curve.top, curve.format(top));
      const spoken = curve.series.map((name, index) => `${NAMES[name]} ${curve.values[index].textContent}`).join(", ");
      curve.svg.setAttribute("aria-label", `Now ${spoken}.`);
    }

    function notePoint(point) {
      for (const [name, value] of Object.entries(point)) {
        const values = past[name] || (past[name] = []);
        values.push(value);
        if (values.length > SECONDS) values.splice(0, values.length - SECONDS);
      }
    }

    // MARK: Live

    let heardAt = 0;
    // Of the sample whose point the curves have. A state may come twice with one: when somebody opens another page.
    let lastSample = 0;
    let source = null;

    function show(state) {
      showBadges(state);
      showTiles(state);
      showTables(state);
      showLists(state);
      for (const curve of Object.values(curves)) drawCurve(curve);
    }

    function showLive() {
      const silence = (Date.now() - heardAt) / 1000;
      const isStale = silence > 5;
      document.body.classList.toggle("stale", isStale && heardAt > 0);
      if (heardAt === 0) badge("badge-live", "connecting", "");
      else if (isStale) badge("badge-live", "no connection; trying again", "bad");
      else badge("badge-live", "live", "good");
    }

    function connect() {
      source = new EventSource("/console/events");
      source.addEventListener("past", (event) => { past = JSON.parse(event.data); lastSample = past.sample; });
      source.addEventListener("state", (event) => {
        const state = JSON.parse(event.data);
        if (state.sample !== lastSample) notePoint(state.point);
        lastSample = state.sample;
        heardAt = Date.now();
        show(state);
        showLive();
      });
      source.addEventListener("error", () => {
        showLive();
        // The browser comes back by itself after a lost connection, and gives up after an answer that is no stream.
        if (source.readyState === EventSource.CLOSED) setTimeout(connectAgain, 3000);
      });
    }

    async function connectAgain() {
      try {
        const response = await fetch("/console/state");
        if (response.status === 401) { location.assign("/console/login"); return; }
      } catch { /* The server is away. */ }
      connect();
    }

    // MARK: Look-ups

    function facts(rows) {
      return make("ul", { class: "facts" }, ...rows.map(([name, value]) => make("li", {}, `${name} `, make("b", { text: value }))));
    }

    function lineText(line) {
      const place = line.location ? ` at ${line.location}` : "";
      const units = line.quantity ? `${count(line.quantity)} × ` : "";
      return `${units}${line.sku}${place}`;
    }

    /** A column of numbers, one for each line. */
    function numbers(lines, key) {
      return make("td", { class: "number", text: lines.map((line) => count(line[key])).join(" / ") });
    }

    /** The time of the day, and the day where it is another one. */
    function shortTime(ms) {
      const [day, clock] = new Date(ms).toISOString().slice(0, -1).split("T");
      const today = new Date().toISOString().slice(0, 10);
      return make("td", { text: day === today ? clock : `${day} ${clock}`, title: time(ms) });
    }

    const ENDS = {
      complete: "This is all that there is.",
      trimmed: "The log does not go back further.",
      entries: "These are the newest; older ones are left out.",
      bytes: "Older decisions were not looked for: the search has read as much as it may.",
      time: "The search has taken as long as it may: decisions are missing, perhaps newer ones than these.",
      none: "",
    };

    function historyView(history) {
      const box = make("div", {}, make("h3", { text: "History from the log" }));
      if (history.problem) box.append(make("p", { class: "note", text: history.problem }));
      else {
        const back = history.searchedBackTo === null ? "" : ` Searched back to ${time(history.searchedBackTo)}, ${bytes(history.bytesRead)}.`;
        box.append(make("p", { class: "note", text: `${ENDS[history.end] || ""}${back}` }));
      }
      if (history.entries.length === 0) return box;
      const headings = [["Time (UTC)"], ["What"], ["Lines"], ["On hand", "number"], ["Held", "number"], ["Committed", "number"],
        ["Reservation"], ["Caller"], ["Key"], ["Note"]];
      const table = make("table", {}, make("thead", {}, make("tr", {}, ...headings.map(([text, mark]) =>
        make("th", { scope: "col", class: mark || "", text })))));
      const body = make("tbody");
      for (const entry of history.entries) {
        const id = make("td");
        if (entry.reservation) {
          const button = make("button", { type: "button", class: "link", text: entry.reservation });
          button.addEventListener("click", () => lookUpReservation(entry.reservation));
          id.append(button);
        }
        const until = entry.expiresAt === null ? "" : `until ${time(entry.expiresAt)}`;
        body.append(make("tr", {}, shortTime(entry.time), make("td", { text: entry.kind }),
          make("td", { text: entry.lines.map(lineText).join(", ") }), numbers(entry.lines, "onHand"),
          numbers(entry.lines, "held"), numbers(entry.lines, "committed"), id, make("td", { text: entry.caller }),
          make("td", { text: entry.key }), make("td", { class: entry.note ? "long" : "", text: [entry.note, until].filter(Boolean).join("; ") })));
      }
      table.append(body);
      box.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "History from the log" }, table));
      return box;
    }

    function stockView(answer) {
      const name = answer.location ? `${answer.sku} at ${answer.location}` : answer.sku;
      if (!answer.found) return [make("h3", { text: name }), make("p", { text: "There is no such item." })];
      return [make("h3", { text: name }), facts([
        ["available", count(answer.available)], ["on hand", count(answer.onHand)], ["held", count(answer.held)],
        ["committed", count(answer.committed)], ["safety stock", count(answer.safetyStock)],
        ["version", count(answer.version)],
        ["sale", answer.frozen ? "frozen" : answer.onSale ? "open" : "outside its window"],
      ]), historyView(answer.history)];
    }

    function reservationView(answer) {
      if (!answer.found) {
        return [make("h3", { text: answer.id }), make("p", { text: "No reservation with this id is remembered." })];
      }
      return [make("h3", { text: answer.id }), facts([
        ["state", answer.isDue ? "expired (due, not swept yet)" : answer.state],
        ["made", time(answer.createdAt)], ["ends", time(answer.expiresAt)],
        ["ended", time(answer.endedAt)], ["revision", count(answer.revision)],
        ["reference", answer.reference || "none"], ["lines", answer.lines.map(lineText).join(", ")],
      ]), historyView(answer.history)];
    }

    let asked = 0;

    async function lookUp(path, parameters, view) {
      asked += 1;
      const number = asked;
      const box = byId("answer");
      box.replaceChildren(make("p", { class: "note", text: "Looking …" }));
      let parts;
      try {
        const response = await fetch(`${path}?${new URLSearchParams(parameters)}`);
        if (response.status === 401) { location.assign("/console/login"); return; }
        if (!response.ok) throw new Error((await response.text()).trim());
        const answer = await response.json();
        parts = answer.error ? [make("p", { class: "problem", text: answer.error })] : view(answer);
      } catch (error) {
        parts = [make("p", { class: "problem", text: `It could not be looked up: ${error.message}` })];
      }
      if (number !== asked) return;
      box.replaceChildren(...parts);
      box.focus({ preventScroll: true });
      box.scrollIntoView({ block: "nearest" });
    }

    function lookUpStock(sku, location) {
      const form = byId("form-stock").elements;
      form.sku.value = sku;
      form.location.value = location;
      lookUp("/console/stock", { sku, location }, stockView);
    }

    function lookUpReservation(id) {
      byId("form-reservation").elements.id.value = id;
      lookUp("/console/reservation", { id }, reservationView);
    }

    // MARK: Theme

    const THEMES = ["system", "light", "dark"];

    function setTheme(theme) {
      if (theme === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = theme;
      setText(byId("theme"), `Theme: ${theme}`);
      try { localStorage.setItem("holdfast-theme", theme); } catch { /* Then it is for this page alone. */ }
    }

    function storedTheme() {
      try { return THEMES.includes(localStorage.getItem("holdfast-theme")) ? localStorage.getItem("holdfast-theme") : "system"; }
      catch { return "system"; }
    }

    byId("theme").hidden = false;
    byId("theme").addEventListener("click", () => {
      setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "system") + 1) % THEMES.length]);
    });
    byId("form-stock").addEventListener("submit", (event) => {
      event.preventDefault();
      const form = event.target.elements;
      lookUpStock(form.sku.value, form.location.value);
    });
    byId("form-reservation").addEventListener("submit", (event) => {
      event.preventDefault();
      lookUpReservation(event.target.elements.id.value.trim());
    });
    setTheme(storedTheme());
    setInterval(showLive, 1000);
    connect();

    """##
}
