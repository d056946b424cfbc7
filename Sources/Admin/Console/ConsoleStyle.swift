// Made of web/console/console.css by scripts/embed-console.py: change that one.

/// The pages' style.
enum ConsoleStyle {
  static let text = ##"""
    /* Colours in two themes; both keep a contrast of 4.5 to 1 for text. */
    :root {
      --ground: #f4f5f3; --card: #ffffff; --ink: #16201d; --soft: #55625d; --line: #d9dedb;
      --accent: #0b6b57; --accent-ink: #ffffff; --good: #0b6b57; --bad: #b3261e; --warn: #8a5300;
      --good-ground: #d8efe7; --bad-ground: #fbdedb; --warn-ground: #fbe8c8;
      --held: #0b6b57; --refused: #b3261e; --other: #3b5bb5; --bar: #cfe3dc;
      color-scheme: light;
    }
    @media (prefers-color-scheme: dark) {
      :root:not([data-theme="light"]) {
        --ground: #10151a; --card: #182027; --ink: #e7ecea; --soft: #9fadb0; --line: #2c3740;
        --accent: #4cc3a5; --accent-ink: #06231b; --good: #63d2b4; --bad: #ff9d94; --warn: #f2bd62;
        --good-ground: #123a30; --bad-ground: #4a1a17; --warn-ground: #46330f;
        --held: #4cc3a5; --refused: #ff8a80; --other: #8fa8ff; --bar: #1f4439;
        color-scheme: dark;
      }
    }
    :root[data-theme="dark"] {
      --ground: #10151a; --card: #182027; --ink: #e7ecea; --soft: #9fadb0; --line: #2c3740;
      --accent: #4cc3a5; --accent-ink: #06231b; --good: #63d2b4; --bad: #ff9d94; --warn: #f2bd62;
      --good-ground: #123a30; --bad-ground: #4a1a17; --warn-ground: #46330f;
      --held: #4cc3a5; --refused: #ff8a80; --other: #8fa8ff; --bar: #1f4439;
      color-scheme: dark;
    }
    * { box-sizing: border-box; }
    html { -webkit-text-size-adjust: 100%; }
    body {
      margin: 0; background: var(--ground); color: var(--ink);
      font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
    }
    [hidden] { display: none !important; }
    :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
    .skip { position: absolute; left: -100rem; }
    .skip:focus { left: 1rem; top: .5rem; background: var(--card); padding: .4rem .8rem; z-index: 2; }

    header {
      display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center;
      padding: .7rem 1rem; background: var(--card); border-bottom: 1px solid var(--line);
      position: sticky; top: 0; z-index: 1;
    }
    h1 { font-size: 1.15rem; margin: 0; letter-spacing: .01em; }
    .badges { display: flex; flex-wrap: wrap; gap: .4rem; margin: 0; flex: 1 1 auto; }
    .badge {
      padding: .12rem .6rem; border-radius: 1rem; font-size: .82rem; font-weight: 600;
      background: var(--line); color: var(--ink); white-space: nowrap;
    }
    .badge.good { background: var(--good-ground); color: var(--good); }
    .badge.bad { background: var(--bad-ground); color: var(--bad); }
    .badge.warn { background: var(--warn-ground); color: var(--warn); }
    .tools { display: flex; gap: .6rem; align-items: center; }
    .account { display: flex; gap: .5rem; align-items: center; margin: 0; font-size: .85rem; }
    button {
      font: inherit; font-size: .88rem; padding: .35rem .8rem; border-radius: .4rem; cursor: pointer;
      border: 1px solid var(--line); background: var(--card); color: var(--ink); min-height: 2.2rem;
    }
    button[type="submit"] { background: var(--accent); color: var(--accent-ink); border-color: var(--accent); font-weight: 600; }
    .account button[type="submit"] { background: var(--card); color: var(--ink); border-color: var(--line); font-weight: 400; }
    button:hover { border-color: var(--accent); }
    .alarm {
      margin: 1rem 1rem 0; padding: .7rem 1rem; border-radius: .5rem; background: var(--bad-ground);
      color: var(--bad); font-weight: 600; border: 1px solid currentColor;
    }

    main {
      display: grid; gap: .9rem; padding: 1rem; max-width: 120rem; margin: 0 auto;
      grid-template-columns: repeat(12, minmax(0, 1fr)); align-items: stretch;
    }
    main > * { grid-column: span 4; }
    .card, .tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; min-width: 0; }
    .card { padding: .8rem 1rem 1rem; }
    .wide { grid-column: span 6; }
    .whole { grid-column: 1 / -1; }
    .stack { display: flex; flex-direction: column; gap: .9rem; min-width: 0; }
    .stack > .card:last-child { flex: 1; }
    .tiles { grid-column: 1 / -1; display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
    .tile { padding: .6rem .9rem .7rem; }
    .tile .label { color: var(--soft); font-size: .82rem; }
    .tile .value { font-size: 1.55rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
    .tile .more { color: var(--soft); font-size: .8rem; font-variant-numeric: tabular-nums; }
    .tile.bad .value { color: var(--bad); }
    .tile.warn .value { color: var(--warn); }
    h2 { font-size: .95rem; margin: 0 0 .5rem; }
    h2 small { color: var(--soft); font-weight: 400; margin-left: .4rem; font-size: .82rem; }
    h3 { font-size: .95rem; margin: 1rem 0 .4rem; overflow-wrap: anywhere; }

    table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
    th, td { text-align: right; padding: .28rem .4rem; border-top: 1px solid var(--line); vertical-align: top; }
    thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: .8rem; white-space: nowrap; }
    th:first-child, td:first-child { text-align: left; padding-left: 0; }
    th:last-child, td:last-child { padding-right: 0; }
    tbody th { font-weight: 500; }
    caption { text-align: left; font-weight: 600; padding: .3rem 0; }
    .plain { width: auto; margin: 0 1rem; background: var(--card); }
    .plain th { text-align: left; padding-right: 2rem; font-weight: 500; }
    .plain td { text-align: left; overflow-wrap: anywhere; }
    .scroll { overflow: auto; }
    #answer .scroll { max-height: 27rem; border: 1px solid var(--line); border-radius: .4rem; }
    #answer .scroll thead th { position: sticky; top: 0; background: var(--card); }
    .soft { color: var(--soft); }
    .empty { color: var(--soft); font-style: italic; }
    .text { text-align: left; }
    .sku { display: grid; gap: .15rem; min-width: 8rem; max-width: 28rem; }
    .link, .sku button { text-align: left; border: 0; padding: 0; background: none; color: var(--accent); text-decoration: underline; overflow-wrap: anywhere; min-height: 0; font-size: inherit; }
    .link { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .92em; }
    .bar { height: .3rem; border-radius: .2rem; background: var(--bar); overflow: hidden; }
    .bar span { display: block; height: 100%; background: var(--accent); border-radius: .2rem; }

    dl { display: grid; grid-template-columns: 1fr auto; margin: 0; font-size: .9rem; }
    dt, dd { padding: .28rem 0; border-top: 1px solid var(--line); margin: 0; }
    dl > dt:first-of-type, dl > dt:first-of-type + dd { border-top: 0; }
    dt { color: var(--soft); }
    dd { padding-left: .8rem; text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
    dd.bad { color: var(--bad); font-weight: 650; }
    dd.warn { color: var(--warn); font-weight: 650; }
    .note { color: var(--soft); font-size: .83rem; margin: .6rem 0 0; }
    noscript .note { margin: 1rem; }
    .problem { color: var(--bad); font-weight: 600; }

    .chart { position: relative; }
    .chart svg { display: block; width: 100%; height: 8.5rem; }
    .chart .top { position: absolute; top: .1rem; left: .2rem; font-size: .78rem; color: var(--soft); background: var(--card); padding: 0 .2rem; }
    .axis { display: flex; justify-content: space-between; font-size: .78rem; color: var(--soft); margin: .15rem 0 0; }
    .chart .grid { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
    .chart .curve { fill: none; stroke-width: 1.8; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
    .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .82rem; color: var(--soft); margin: .4rem 0 0; padding: 0; list-style: none; }
    .legend li::before { content: ""; display: inline-block; width: .8rem; height: .2rem; margin-right: .35rem; vertical-align: middle; background: currentColor; }
    .legend .held::before { background: var(--held); } .curve.held { stroke: var(--held); }
    .legend .refused::before { background: var(--refused); } .curve.refused { stroke: var(--refused); }
    .legend .conflicts::before { background: var(--warn); } .curve.conflicts { stroke: var(--warn); }
    .legend .p99::before { background: var(--other); } .curve.p99 { stroke: var(--other); }
    .legend .sync::before { background: var(--warn); } .curve.sync { stroke: var(--warn); }
    .legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }

    .forms { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
    .forms form { display: flex; flex-wrap: wrap; gap: .6rem; align-items: end; margin: 0; }
    label { display: grid; gap: .2rem; font-size: .85rem; color: var(--soft); flex: 1 1 8rem; }
    input {
      font: inherit; padding: .4rem .6rem; border: 1px solid var(--soft); border-radius: .4rem;
      background: var(--ground); color: var(--ink); min-height: 2.2rem; width: 100%; min-width: 0;
    }
    #answer:empty { display: none; }
    #answer { margin-top: .8rem; }
    #answer:focus { outline: none; }
    .facts { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: 0; padding: 0; list-style: none; }
    .facts li { color: var(--soft); } .facts b { color: var(--ink); overflow-wrap: anywhere; }
    #answer td, #answer th { text-align: left; white-space: nowrap; padding: .25rem .55rem; }
    #answer td.number, #answer th.number { text-align: right; }
    #answer td.long { white-space: normal; min-width: 22rem; overflow-wrap: anywhere; }
    footer { padding: 0 1rem 1.5rem; color: var(--soft); font-size: .82rem; max-width: 120rem; margin: 0 auto; overflow-wrap: anywhere; }

    .login main { display: block; max-width: 26rem; margin: 10vh auto 0; }
    .login form { display: grid; gap: .6rem; margin: 1rem 0; }
    .stale main { opacity: .55; }
    @media (prefers-reduced-motion: no-preference) {
      .stale main { transition: opacity .3s; }
      .bar span { transition: width .4s; }
    }
    @media (min-width: 100rem) { main > .card:not(.wide):not(.whole) { grid-column: span 3; } }
    @media (max-width: 68rem) { main > * { grid-column: span 6; } main > .wide { grid-column: 1 / -1; } main > .tiles { grid-column: 1 / -1; } }
    @media (max-width: 50rem) {
      header { position: static; }
      .badges { order: 3; flex-basis: 100%; }
      .tools { margin-left: auto; }
      main { padding: .7rem; gap: .7rem; }
      main > * { grid-column: 1 / -1; }
      .tile:last-child:nth-child(odd) { grid-column: span 2; }
      h2 small { display: block; margin: 0; }
      .p90, .share { display: none; }
      .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .7rem; }
      .tile .value { font-size: 1.3rem; }
      .card { padding: .7rem .8rem .8rem; }
      th, td { padding: .28rem .22rem; }
      table { font-size: .86rem; }
    }
    @media print { header { position: static; } .tools, .forms { display: none; } }

    """##
}
