// How pages look: on a screen, light or dark, on a telephone, on paper.

enum PageStyle {
  static let sheet = Markup([colours, layout, parts, charts, methods, narrow, paper])

  /// The colours of series are far apart in hue or in lightness, so that the colour-blind can tell them
  /// apart too, and only one of them is blue; those of percentiles go from faint to strong, so that their
  /// order shows without colours.
  private static let colours: Markup = """
    :root {
      color-scheme: light dark;
      --paper: #f7f7f5; --surface: #ffffff; --ink: #1b1f24; --muted: #5d6570; --hair: #e3e4e1;
      --grid: #ecedea; --band: rgba(27, 31, 36, .045); --shadow: 0 1px 2px rgba(27, 31, 36, .06);
      --first: #0072b2; --second: #e69f00; --third: #009e73; --fourth: #b8438c; --fifth: #5b2a86;
      --sixth: #5e4420; --seventh: #86dccf; --eighth: #f0dd3c;
      --low: #9cc9ee; --middle: #4d9be0; --high: #1a63b8; --highest: #0b2a55;
      --good: #0b7f5c; --good-wash: #e6f4ee; --bad: #d0311b; --bad-wash: #fdece4;
      --warning: #9a6a00; --warning-wash: #fdf3dc; --neutral: #9aa3ae;
    }
    @media screen and (prefers-color-scheme: dark) {
      :root {
        --paper: #14171a; --surface: #1c2024; --ink: #e8eaec; --muted: #9aa4af; --hair: #2d3338;
        --grid: #282d32; --band: rgba(255, 255, 255, .05); --shadow: none;
        --first: #3a9ae8; --second: #f0ab2e; --third: #1fae80; --fourth: #f0a5d0; --fifth: #6f55c9;
        --sixth: #8a6a3a; --seventh: #a8eee3; --eighth: #f7ef7a;
        --low: #2f5f8c; --middle: #4c93d6; --high: #93c4f5; --highest: #e6f2ff;
        --good: #3ccf9f; --good-wash: #16302a; --bad: #ff6a4a; --bad-wash: #3a2119;
        --warning: #f0bd4f; --warning-wash: #352b15; --neutral: #737d88;
      }
    }

    """

  private static let layout: Markup = """
    * { box-sizing: border-box; }
    html { -webkit-text-size-adjust: 100%; }
    body {
      margin: 0; background: var(--paper); color: var(--ink);
      font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
        "Liberation Sans", sans-serif;
      font-variant-numeric: tabular-nums;
    }
    main { max-width: 1080px; margin: 0 auto; padding: 40px 32px 64px; }
    header p, footer { color: var(--muted); }
    header .eyebrow {
      margin: 0; font-size: 12px; font-weight: 600; letter-spacing: .08em;
      text-transform: uppercase;
    }
    h1 { margin: 4px 0 2px; font-size: 28px; line-height: 1.2; letter-spacing: -.015em; }
    h2 { margin: 0 0 4px; font-size: 19px; letter-spacing: -.01em; }
    h3 { margin: 0; font-size: 14px; font-weight: 600; }
    h1, dd, td, th, li, p { overflow-wrap: anywhere; }
    header > p { margin: 0; }
    section { margin-top: 48px; }
    .note { margin: 0 0 16px; color: var(--muted); max-width: 46em; }
    figure.chart, .scroll, .facts, pre {
      background: var(--surface); border: 1px solid var(--hair); border-radius: 10px;
      box-shadow: var(--shadow);
    }
    footer { margin-top: 56px; padding-top: 16px; border-top: 1px solid var(--hair); font-size: 13px; }
    :focus-visible { outline: 2px solid var(--first); outline-offset: 2px; }

    """

  private static let parts: Markup = """
    .verdict {
      display: flex; gap: 16px; align-items: flex-start; margin: 24px 0; padding: 18px 20px;
      border: 1px solid; border-left-width: 5px; border-radius: 10px;
    }
    .verdict svg { flex: none; width: 30px; height: 30px; }
    .verdict circle { fill: currentColor; }
    .verdict path { fill: none; stroke: var(--surface); stroke-width: 2.4; stroke-linecap: round;
      stroke-linejoin: round; }
    .verdict strong { font-size: 18px; line-height: 30px; }
    .verdict p { margin: 2px 0 0; color: var(--ink); }
    .verdict.good { color: var(--good); background: var(--good-wash); }
    .verdict.bad { color: var(--bad); background: var(--bad-wash); }
    .verdict.warning, .verdict.neutral { color: var(--warning); background: var(--warning-wash); }
    .figures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; margin: 0;
      background: var(--surface); border: 1px solid var(--hair); border-radius: 10px;
      overflow: hidden; }
    .figures div { padding: 14px 18px 12px; box-shadow: 0 0 0 1px var(--hair); }
    .figures dt { font-size: 13px; color: var(--muted); }
    .figures dd { margin: 2px 0 0; font-size: 25px; font-weight: 600; line-height: 1.2;
      letter-spacing: -.02em; }
    .figures small { font-size: 14px; font-weight: 500; color: var(--muted); letter-spacing: 0; }
    .figures dd.detail { min-height: 1.4em; font-size: 12.5px; font-weight: 400; color: var(--muted);
      letter-spacing: 0; }
    .facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr));
      gap: 0 32px; margin: 0 0 16px; padding: 8px 18px; }
    .facts div { display: flex; justify-content: space-between; gap: 16px; padding: 6px 0;
      border-bottom: 1px solid var(--grid); }
    .facts dt { color: var(--muted); }
    .facts dd { margin: 0; min-width: 5em; text-align: right; }
    .scroll { overflow-x: auto; margin: 0 0 16px; }
    table { width: 100%; border-collapse: collapse; font-size: 14px; }
    caption { padding: 12px 18px 4px; text-align: left; font-weight: 600; }
    th, td { padding: 7px 12px; text-align: right; white-space: nowrap; }
    th:first-child { padding-left: 18px; text-align: left; font-weight: 500; }
    th:last-child, td:last-child { padding-right: 18px; }
    thead th { color: var(--muted); font-size: 12.5px; font-weight: 500; }
    tbody tr { border-top: 1px solid var(--grid); }
    tbody tr:last-child > * { padding-bottom: 12px; }
    td small { color: var(--muted); }
    .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
      gap: 0 16px; align-items: start; }
    .limit { margin: 16px 0; max-width: 60em; }
    .limit .mark { white-space: normal; }
    .mark { font-weight: 600; white-space: nowrap; }
    .mark.good { color: var(--good); } .mark.bad { color: var(--bad); }
    .mark.warning { color: var(--warning); }
    pre { margin: 0 0 16px; padding: 14px 18px; overflow-x: auto; font-size: 13px; line-height: 1.55;
      font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono",
        monospace; }
    pre.wrapped { white-space: pre-wrap; overflow-wrap: anywhere; }
    ul.plain { margin: 0 0 16px; padding-left: 20px; }
    ul.warnings { margin: 0 0 16px; padding: 10px 18px 10px 36px; border-radius: 10px;
      background: var(--warning-wash); color: var(--ink); }
    details { margin: 0 0 16px; }
    summary { padding: 6px 0; cursor: pointer; color: var(--muted); font-weight: 500; }

    """

  private static let charts: Markup = """
    figure.chart { margin: 0 0 16px; padding: 16px 18px 12px; }
    figcaption p { margin: 1px 0 0; font-size: 13px; color: var(--muted); max-width: 60em; }
    .legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 0; padding: 0;
      list-style: none; font-size: 13px; color: var(--muted); }
    .legend li { white-space: nowrap; }
    .legend i, .readout i { display: inline-block; width: 14px; height: 0; margin-right: 7px;
      vertical-align: middle; border-top: 3px solid; border-radius: 2px; }
    .legend i.dashed { border-top-style: dotted; }
    .plot { position: relative; height: var(--height); margin: 14px 6px 26px var(--left); }
    .plot > svg { display: block; overflow: visible; }
    .plot text { font-size: 12px; fill: var(--muted); }
    .plot text.vertical { text-anchor: end; }
    .plot text.middle { text-anchor: middle; } .plot text.end { text-anchor: end; }
    .plot .grid { stroke: var(--hair); } .plot .tick { stroke: var(--grid); }
    .plot .band { fill: var(--band); }
    .marks path { fill: none; stroke: currentColor; stroke-width: 1.75; stroke-linejoin: round;
      stroke-linecap: round; vector-effect: non-scaling-stroke; }
    .marks .dashed { stroke-dasharray: 1 5; stroke-width: 2.5; }
    .marks .area { fill: currentColor; stroke: none; fill-opacity: .85; }
    .marks .dots { stroke-width: 8; }
    .marks .ranges { stroke-linecap: butt; }
    .marks .rule { stroke-dasharray: 6 4; stroke-width: 1.25; }
    \(tones)
    .crosshair { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--muted);
      pointer-events: none; }
    .readout { position: absolute; top: 0; z-index: 1; padding: 8px 12px; pointer-events: none;
      background: var(--surface); border: 1px solid var(--hair); border-radius: 8px;
      box-shadow: 0 4px 16px rgba(0, 0, 0, .14); font-size: 12.5px; white-space: nowrap; }
    .readout b { display: block; } .readout td { padding: 0; border: 0; font-size: 12.5px; }
    .readout tr { border: 0; } .readout tbody tr:last-child > * { padding-bottom: 0; }
    .readout td:last-child { padding-left: 16px; }
    .readout td:first-child { text-align: left; color: var(--muted); }

    """

  private static let tones = Markup(
    [
      Tone.first, .second, .third, .fourth, .fifth, .sixth, .seventh, .eighth, .low, .middle, .high,
      .highest,
      .good, .bad, .warning, .neutral,
    ].map { tone in
      "path.\(tone.rawValue), i.\(tone.rawValue) { color: var(--\(tone.rawValue)); }\n"
    })

  /// The choice of a method needs no script: the panel of the radio button that is checked is shown.
  private static let methods = Markup([
    """
    .choice > input { position: absolute; opacity: 0; pointer-events: none; }
    .choice .tabs { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 16px; padding: 0;
      border: 0; }
    .choice label { padding: 7px 13px; border: 1px solid var(--hair); border-radius: 999px;
      background: var(--surface); color: var(--muted); font-size: 13.5px; font-weight: 500;
      cursor: pointer; }
    .choice label small { font-size: 12px; font-weight: 400; }
    .choice .panel { display: none; }
    .choice .figures { grid-template-columns: repeat(6, 1fr); margin-bottom: 16px; }
    .choice .figures dd.detail { display: none; }
    .choice .plot text.odd { display: none; }

    """,
    Markup(
      measuredMethodNames.map { name in
        let id = Chart.identifier("method " + name)
        return """
          #\(id):checked ~ .\(id) { display: block; }
          #\(id):checked ~ .tabs label[for="\(id)"] { background: var(--ink); \
          border-color: var(--ink); color: var(--paper); }
          #\(id):focus-visible ~ .tabs label[for="\(id)"] { outline: 2px solid var(--first); \
          outline-offset: 2px; }

          """
      }),
  ])

  private static let narrow: Markup = """
    @media (max-width: 640px) {
      main { padding: 24px 16px 40px; }
      h1 { font-size: 23px; }
      section { margin-top: 36px; }
      .verdict { padding: 14px; gap: 12px; }
      .figures { grid-template-columns: repeat(2, 1fr); }
      .choice .figures { grid-template-columns: repeat(3, 1fr); }
      .choice .figures dd { font-size: 18px; }
      .choice .figures div { padding: 9px 12px; }
      .figures div { padding: 11px 14px 10px; }
      .figures dd { font-size: 21px; }
      .facts { grid-template-columns: 1fr; padding: 6px 14px; }
      figure.chart { padding: 14px 12px 8px; }
      table { font-size: 13px; }
      th, td { padding: 7px 6px; }
      .wide { display: none; }
      caption, th:first-child { padding-left: 14px; }
      caption span { position: sticky; left: 14px; display: inline-block;
        max-width: calc(100vw - 64px); }
      .scroll th:first-child { position: sticky; left: 0; background: var(--surface); }
      tbody th { white-space: normal; overflow-wrap: break-word; max-width: 9em; }
      .plot text { font-size: 11px; }
      .plot text.odd { display: none; }
      .plot.rows { height: calc(var(--height) * 1.7); margin-left: 6px; }
      .plot.rows text.vertical { text-anchor: start; transform: translate(10px, -12px); }
    }

    """

  private static let paper: Markup = """
    @media print {
      :root { --paper: #fff; --shadow: none; }
      @page { margin: 14mm; }
      body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
      main { max-width: none; padding: 0; }
      section { margin-top: 24pt; }
      h2, h3, .note, figcaption { break-after: avoid; }
      .pair { grid-template-columns: 1fr 1fr; }
      .plot { height: calc(var(--height) * .8); }
      .verdict, .figures, figure.chart, tr, .facts div, .note, .pair > * { break-inside: avoid; }
      .scroll, pre { overflow: visible; }
      pre { white-space: pre-wrap; overflow-wrap: anywhere; }
      table { font-size: 8.5pt; } th, td { padding: 4px 6px; }
      details:not([open]) { display: none; }
    }
    """
}
